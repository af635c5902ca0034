"""Blocks, receptive fields and schedules against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skippose.ops import Convolution, GatedConvolution, block_for_map
from skippose.ops.geometry import ConvGeometry
from skippose.ops.masks import changed_outputs, expand_blocks, pool_blocks
from skippose.ops.schedule import Schedule

SIZES = st.tuples(st.integers(1, 17), st.integers(1, 17))


@settings(max_examples=50, deadline=None)
@given(size=SIZES, block=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_blocks_open_by_their_largest_score(
    size: tuple[int, int], block: tuple[int, int], seed: int
) -> None:
    """Also on maps smaller than a block, such as 8x6 with block 8, and on ragged edges."""
    torch.manual_seed(seed)
    score = torch.randn(2, 1, *size)
    pooled = expand_blocks(pool_blocks(score, block), block, size)
    assert pooled.shape == score.shape
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i // block[0] * block[0], i // block[0] * block[0] + block[0])
            columns = slice(j // block[1] * block[1], j // block[1] * block[1] + block[1])
            expected = score[:, :, rows, columns].amax((-2, -1))
            assert torch.equal(pooled[:, :, i, j], expected)


@pytest.mark.parametrize(
    ("block", "mode", "out_size", "frame", "expected"),
    [
        (8, "scaled", (64, 64), (256, 256), (8, 8)),
        (8, "scaled", (32, 32), (256, 256), (4, 4)),
        (8, "scaled", (8, 8), (256, 256), (1, 1)),
        (8, "scaled", (128, 128), (256, 256), (16, 16)),
        (4, "scaled", (8, 6), (256, 192), (1, 1)),
        (1, "scaled", (64, 48), (256, 192), (1, 1)),
        (1, "scaled", (128, 96), (256, 192), (2, 2)),
        (4, "scaled", (64, 48), (255, 191), (4, 4)),
        (4, "scaled", (64, 32), (256, 256), (4, 2)),
        (8, "fixed", (8, 6), (256, 192), (8, 8)),
        (3, "fixed", (64, 64), (256, 256), (3, 3)),
    ],
)
def test_block_sizes(
    block: int,
    mode: str,
    out_size: tuple[int, int],
    frame: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    assert block_for_map(block, mode, out_size, frame) == expected


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    seed=st.integers(0, 999),
)
def test_changed_outputs_are_those_whose_receptive_field_changed(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: int,
    dilation: int,
    mode: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, 2, kernel, stride, padding, dilation, padding_mode=mode)
    geometry = ConvGeometry.of(conv)
    size = [geometry.extent[i] + 5 for i in (0, 1)]
    before = torch.randn(2, 3, *size)
    after = torch.where(torch.rand(before.shape) < 0.02, before + 1e-30 + 0.5, before)
    columns = geometry.columns(after) != geometry.columns(before)
    expected = columns.flatten(1, 2).any(1)
    assert torch.equal(changed_outputs(after, before, geometry).flatten(1), expected)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_patches_are_what_a_block_reads(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: int,
    dilation: int,
    block: tuple[int, int],
    extra: tuple[int, int],
) -> None:
    """Convolving each patch alone gives the block's outputs."""
    conv = nn.Conv2d(2, 3, kernel, stride, padding, dilation).double()
    geometry = ConvGeometry.of(conv)
    x = torch.randn(2, 2, *(geometry.extent[i] + extra[i] for i in (0, 1)), dtype=torch.float64)
    whole = conv(x)
    patches = geometry.patches(x, block)
    n, rows, columns = patches.shape[:3]
    alone = Convolution.of(conv).unpadded()(patches.flatten(0, 2))
    assert alone.shape[-2:] == torch.Size(block)
    tiled = alone.unflatten(0, (n, rows, columns)).permute(0, 3, 1, 4, 2, 5)
    tiled = tiled.flatten(4, 5).flatten(2, 3)[..., : whole.shape[-2], : whole.shape[-1]]
    torch.testing.assert_close(tiled, whole)


def test_an_input_smaller_than_the_kernel_is_refused() -> None:
    geometry = ConvGeometry(kernel_size=(5, 5))
    with pytest.raises(ValueError, match="4x9 is smaller than .* 5x5"):
        geometry.out_size(4, 9)


class TestSchedule:
    def test_first_frames_and_refreshes_are_dense(self) -> None:
        age = torch.tensor([0, 2])
        assert Schedule().plan(age, 4).tolist() == [[True] + [False] * 3, [False] * 4]
        plan = Schedule(refresh_every=3).plan(age, 5)
        assert plan.tolist() == [
            [True, False, False, True, False],
            [False, True, False, False, True],
        ]

    @pytest.mark.parametrize("arguments", [{"refresh_every": 0}, {"refresh_every": 1.5}])
    def test_a_refresh_below_one_frame_is_refused(self, arguments: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="refresh_every must be a number of frames"):
            Schedule(**arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize("cut", [-0.1, 1.5, float("nan")])
    def test_a_cut_is_a_density(self, cut: float) -> None:
        with pytest.raises(ValueError, match="cut must be a density between 0 and 1, got"):
            Schedule(cut=cut)


def test_ragged_blocks_do_not_count_outputs_that_do_not_exist() -> None:
    """A patch beyond the map is padded with zeros: its change must not open the block."""
    from skippose.gates import InputNormGate

    conv = nn.Conv2d(1, 1, 1)
    gate = InputNormGate(0.5, scale="absolute", block=4, block_mode="fixed")
    layer = GatedConvolution(Convolution.of(conv), gate, "hold", (4, 4))
    held: Tensor = layer.patches(torch.zeros(1, 1, 6, 6))
    beyond = held.clone()
    beyond[:, 1, 1, :, 2:, :] = 9.0  # rows 6 and 7 of a map of 6
    assert float(layer.patch_score(beyond, held, (6, 6)).max()) == 0
    beyond[:, 1, 1, :, 1, 1] = 2.0  # row 5, column 5
    assert float(layer.patch_score(beyond, held, (6, 6))[0, 0, 1, 1]) == 2.0
