"""Masks and costs over frames, pixel by pixel."""

import numpy as np
import pytest
import torch

import skippose
from skippose.frames_pass import CallRecord
from skippose.visualization import cost_map, gate_on_frame, overlay_gate, overlay_heat
from skippose.visualization.overlay import COMPUTED


def record(mask: torch.Tensor, block: tuple[int, int] = (1, 1), macs: int = 1) -> CallRecord:
    """Of one clip of one frame; ``mask`` is (Hb, Wb), the map is that of whole blocks."""
    size = (mask.shape[0] * block[0], mask.shape[1] * block[1])
    return CallRecord(macs, gate=mask[None, None, None].bool(), block=block, out_size=size)


def test_a_mask_at_the_frames_resolution() -> None:
    mask = torch.zeros(3, 4)
    mask[1, 2] = 1
    pixels = gate_on_frame(record(mask), 0, 0, (6, 8))
    assert pixels.dtype == bool
    expected = np.zeros((6, 8), bool)
    expected[2:4, 4:6] = True
    np.testing.assert_array_equal(pixels, expected)


def test_blocks_cover_their_pixels() -> None:
    mask = torch.zeros(2, 2)
    mask[0, 1] = 1
    pixels = gate_on_frame(record(mask, block=(2, 4)), 0, 0, (8, 16))
    expected = np.zeros((8, 16), bool)
    expected[:4, 8:] = True
    np.testing.assert_array_equal(pixels, expected)


def test_a_ragged_last_block_ends_with_the_map() -> None:
    ragged = record(torch.tensor([[0, 0], [0, 1]]), block=(2, 2))
    ragged.out_size = (3, 3)
    expected = np.zeros((3, 3), bool)
    expected[2, 2] = True
    np.testing.assert_array_equal(gate_on_frame(ragged, 0, 0, (3, 3)), expected)


def test_clip_and_frame_are_told_apart() -> None:
    gate = torch.zeros(2, 3, 1, 2, 2, dtype=torch.bool)
    gate[1, 2] = True
    several = CallRecord(1, gate=gate, out_size=(2, 2))
    for clip in range(2):
        for frame in range(3):
            assert gate_on_frame(several, clip, frame, (4, 4)).all() == ((clip, frame) == (1, 2))


def test_without_masks_it_is_an_error() -> None:
    with pytest.raises(ValueError, match="keep_masks=True"):
        gate_on_frame(CallRecord(1), 0, 0, (4, 4))


def test_costs_are_shares_of_the_gated_macs() -> None:
    left, all_over = torch.tensor([[1, 0]]), torch.ones(1, 2)
    records = [record(left, macs=3), record(all_over, macs=1), CallRecord(100)]
    heat = cost_map(records, 0, 0, (2, 4))
    np.testing.assert_allclose(heat, [[1, 1, 0.25, 0.25]] * 2)
    assert cost_map([CallRecord(100)], 0, 0, (2, 2)).tolist() == [[0, 0], [0, 0]]


def test_the_overlay_of_a_gate() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    kept = frame.copy()
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    drawn = overlay_gate(frame, mask)
    assert (drawn.dtype, drawn.shape) == (np.uint8, frame.shape)
    np.testing.assert_array_equal(frame, kept)
    # Computed: half the frame, half the tint. Skipped: grey and darker.
    half = (frame[1, 2].astype(float) + COMPUTED) / 2
    np.testing.assert_allclose(drawn[1, 2], half, atol=1)
    skipped = drawn[~mask].astype(int)
    assert (skipped == skipped[:, :1]).all(), "grey"
    luma = frame[~mask].astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(skipped[:, 0], luma * 0.6, atol=1.5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_goes_from_the_frame_to_the_tint(alpha: float) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (3, 3, 3), np.uint8)
    drawn = overlay_gate(frame, np.ones((3, 3), bool), alpha)
    np.testing.assert_array_equal(drawn, np.full_like(frame, COMPUTED) if alpha else frame)


def test_heat_is_viridis_from_dark_to_yellow() -> None:
    frame = np.zeros((1, 3, 3), np.uint8)
    drawn = overlay_heat(frame, np.array([[0, 0.5, 1]], np.float32), alpha=1.0).astype(int)
    low, middle, high = drawn[0]
    np.testing.assert_allclose(low, (68, 1, 84), atol=2)
    np.testing.assert_allclose(middle, (33, 145, 140), atol=3)
    np.testing.assert_allclose(high, (253, 231, 37), atol=2)


def test_of_a_real_pass() -> None:
    """One pixel changes: a 3x3 convolution is computed around it and nowhere else."""
    gate = dict(type="InputNormGate", eps=0.0, block_mode="fixed")
    net = skippose.SkipConv2d(3, 2, 3, padding=1, gate=gate).eval()
    images = torch.rand(2, 3, 8, 8)
    images[1] = images[0]
    images[1, 0, 5, 2] += 1
    with torch.no_grad(), skippose.clips(2, keep_masks=True) as run:
        net(images)
    (seen,) = run.records.values()
    expected = np.zeros((8, 8), bool)
    expected[4:7, 1:4] = True
    np.testing.assert_array_equal(gate_on_frame(seen, 0, 1, (8, 8)), expected)
    assert gate_on_frame(seen, 0, 0, (8, 8)).all()
