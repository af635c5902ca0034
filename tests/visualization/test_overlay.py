"""Masks and costs over frames, pixel by pixel."""

import cv2
import numpy as np
import pytest
import torch

import skippose
from skippose.frames_pass import CallRecord
from skippose.visualization import (
    cost_map,
    draw_pose,
    gate_on_frame,
    in_image,
    overlay_gate,
    overlay_heat,
)
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


# -- back in the image ---------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("block", "window", "crop"),
    [
        (1, (40, 20, 128, 128), (64, 64)),
        (2, (33, 17, 96, 120), (48, 64)),
        (4, (8, 8, 48, 48), (96, 96)),
    ],
)
def test_a_moving_patch_through_crop_flip_and_resize_and_back(
    flip: bool, block: int, window: tuple, crop: tuple
) -> None:
    """In the image: the blocks whose receptive field touches a changed pixel, and nothing else."""
    rng = np.random.default_rng(block)
    height, width = 180, 220
    scene = rng.integers(0, 200, (height, width, 3), np.uint8)
    images = np.repeat(scene[None], 2, 0)
    x, y = window[0] + window[2] // 3, window[1] + window[3] // 3
    images[0, y : y + 9, x : x + 9] = 250
    images[1, y + 4 : y + 13, x + 7 : x + 16] = 250

    matrix = np.array(
        [
            [crop[0] / window[2], 0, -window[0] * crop[0] / window[2]],
            [0, crop[1] / window[3], -window[1] * crop[1] / window[3]],
        ]
    )
    if flip:
        matrix[0] = [-matrix[0, 0], 0, crop[0] - 1 - matrix[0, 2]]
    crops = np.stack([cv2.warpAffine(image, matrix, crop) for image in images])
    gate = dict(type="InputNormGate", eps=0.0, block=block, block_mode="fixed")
    layer = skippose.SkipConv2d(3, 2, 3, stride=2, padding=1, gate=gate).eval()
    with torch.no_grad(), skippose.clips(2, keep_masks=True) as run:
        layer(torch.from_numpy(crops).permute(0, 3, 1, 2).float())
    (seen,) = run.records.values()
    mask = gate_on_frame(seen, 0, 1, crop[::-1])
    drawn = in_image(mask, matrix, (height, width))

    # Pixel by pixel, without any of what is tested.
    changed = np.pad((crops[0] != crops[1]).any(-1), 1)
    expected = np.zeros((height, width), bool)
    for v, u in np.ndindex(height, width):
        column, row = (int(np.rint(c)) for c in matrix[:, :2] @ (u, v) + matrix[:, 2])
        if 0 <= column < crop[0] and 0 <= row < crop[1]:
            # The block of outputs (stride 2, so an output is two pixels) that this pixel shows.
            i, j = (block * (n // 2 // block) for n in (row, column))
            field = changed[2 * i : 2 * (i + block) + 1, 2 * j : 2 * (j + block) + 1]
            expected[v, u] = field.any()
    np.testing.assert_array_equal(drawn, expected)
    # The patch's old and new place are in it, and it is about them.
    assert drawn[y + 1 : y + 8, x + 1 : x + 8].all()
    assert drawn[y + 5 : y + 12, x + 8 : x + 15].all()
    assert drawn.mean() < 0.1
    tinted = overlay_gate(images[1], drawn)
    np.testing.assert_array_equal(tinted[drawn], overlay_gate(images[1], drawn | True)[drawn])


def test_in_image_outside_of_the_crop_there_is_nothing() -> None:
    everywhere = np.ones((8, 8), np.float32)
    matrix = np.array([[1.0, 0, -20], [0, 1, 4]])
    drawn = in_image(everywhere, matrix, (10, 25))
    expected = np.zeros((10, 25), np.float32)
    expected[:4, 20:] = 1  # the rest of the crop lies outside of the image
    np.testing.assert_array_equal(drawn, expected)
    away = np.array([[1.0, 0, -100], [0, 1, 0]])
    assert not in_image(everywhere, away, (10, 25)).any()


def test_a_pose_is_drawn_where_its_joints_are_sure() -> None:
    points = np.array([[10.0, 10], [40, 10], [40, 40]])
    image = np.zeros((50, 50, 3), np.uint8)
    draw_pose(image, points, np.array([0.9, 0.9, 0.1]), [(0, 1), (1, 2)], colour=(9, 8, 7))
    assert np.abs(image[10, 20].astype(int) - (9, 8, 7)).max() <= 1, "the link"
    assert (image[10, 10] == 255).all(), "the joint"
    assert not image[30:].any(), "neither the unsure joint nor its link"


def test_many_layers_on_few_grids_cost_the_same_map() -> None:
    rng = np.random.default_rng(0)
    records = [
        record(torch.from_numpy(rng.random((4, 4)) > 0.5), block=block, macs=int(macs))
        for block, macs in zip([(1, 1), (2, 2), (1, 1), (2, 2)], rng.integers(1, 9, 4), strict=True)
    ]
    whole = sum(r.macs for r in records)
    expected = sum(r.macs * gate_on_frame(r, 0, 0, (16, 16)) for r in records) / whole
    np.testing.assert_allclose(cost_map(records, 0, 0, (16, 16)), expected, rtol=1e-6)
