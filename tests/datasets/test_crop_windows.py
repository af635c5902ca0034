"""Crop windows: where they stay put, when they move, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skippose.datasets.crop_windows import (
    CROP_MODES,
    HysteresisWindow,
    build_crop_window,
    clip_windows,
)

BOX = np.array([100, 50, 160, 210], np.float32)  # 60 x 160: the crop of a square input is 200 wide


def shifted(dx: float, dy: float = 0) -> np.ndarray:
    return BOX + np.array([dx, dy, dx, dy], np.float32)


@pytest.mark.parametrize(
    ("dx", "dy", "moves"),
    [
        (0, 0, False),
        (0, 15, False),  # the border is 20 px, of which margin=0.2 keeps 4 free
        (0, 16, False),
        (0, 17, True),
        (0, -17, True),
        (60, 0, False),  # sideways there is the room that the aspect ratio adds
        (67, 0, True),
    ],
)
def test_hysteresis_moves_only_when_the_box_leaves_the_inner_margin(dx, dy, moves):
    window = HysteresisWindow()
    first = window.update(BOX)
    second = window.update(shifted(dx, dy))
    assert np.array_equal(first, BOX)
    assert np.array_equal(second, shifted(dx, dy) if moves else BOX)


def test_hysteresis_shrinks_when_the_person_has_become_small():
    window = HysteresisWindow(shrink=0.6)
    window.update(BOX)
    assert np.array_equal(window.update(np.array([110, 100, 150, 200])), BOX)  # 100 of 160 high
    small = np.array([110, 100, 150, 190], np.float32)
    assert np.array_equal(window.update(small), small)  # 90 of 160


def test_hysteresis_is_causal():
    """The window of frame t does not change when later boxes do."""
    rng = np.random.default_rng(0)
    boxes = BOX + rng.normal(0, 12, (30, 4)).cumsum(0).astype(np.float32) * [[1, 1, 0, 0]]
    boxes[:, 2:] = boxes[:, :2] + BOX[2:] - BOX[:2]
    whole = clip_windows("hysteresis", boxes)
    assert 1 < len(np.unique(whole, axis=0)) < 30
    for t in (1, 10, 29):
        assert np.array_equal(clip_windows("hysteresis", boxes[:t]), whole[:t])


@settings(deadline=None, max_examples=50)
@given(
    centres=st.lists(st.tuples(st.floats(-50, 400), st.floats(-50, 400)), min_size=1, max_size=12),
    sizes=st.lists(st.tuples(st.floats(4, 300), st.floats(4, 300)), min_size=12, max_size=12),
    aspect=st.sampled_from([0.75, 1.0, 1.5]),
    padding=st.sampled_from([1.0, 1.25, 1.5]),
)
def test_hysteresis_always_shows_the_whole_box(centres, sizes, aspect, padding):
    window = HysteresisWindow(aspect, padding)
    for (x, y), (w, h) in zip(centres, sizes, strict=False):
        box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2], np.float32)
        held = window.update(box)
        width, height = held[2:] - held[:2]
        size = padding * np.array([max(width, height * aspect), max(height, width / aspect)])
        centre = (held[:2] + held[2:]) / 2
        assert (box[:2] >= centre - size / 2 - 0.01).all()
        assert (box[2:] <= centre + size / 2 + 0.01).all()


def test_first_union_frame():
    boxes = np.stack([shifted(0), shifted(10, 5), shifted(-20, 40)])
    assert np.array_equal(clip_windows("first", boxes), np.stack([BOX] * 3))
    assert np.array_equal(clip_windows("frame", boxes), boxes)
    union = np.array([80, 50, 170, 250], np.float32)
    assert np.array_equal(clip_windows("union", boxes), np.stack([union] * 3))


@pytest.mark.parametrize("mode", ["hysteresis", "first"])
def test_reset_forgets_the_video(mode):
    window = build_crop_window(mode)
    window.update(BOX)
    far = shifted(300)
    window.reset()
    assert np.array_equal(window.update(far), far)


@pytest.mark.parametrize("mode", ["hysteresis", "first", "frame"])
def test_what_a_window_returns_is_the_callers_own(mode):
    window = build_crop_window(mode)
    box = BOX.copy()
    window.update(box)[:] = 0
    box[:] = 1
    assert np.array_equal(window.update(BOX), BOX)


@pytest.mark.parametrize("mode", CROP_MODES)
@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 0, 0, 10], "x2 > x1"),
        ([0, 0, np.nan, 10], "finite"),
        ([0, 0, 10], "shape"),
    ],
)
def test_a_bad_box_is_refused(mode, box, message):
    with pytest.raises(ValueError, match=message):
        clip_windows(mode, [np.array(box)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(mode="follow"), "crop must be one of .* found 'follow'"),
        (dict(mode="union"), "not causal"),
        (dict(mode="hysteresis", margin=1.5), "margin .* found 1.5"),
        (dict(mode="hysteresis", padding=0.9), "padding .* found 0.9"),
        (dict(mode="hysteresis", shrink=1), "shrink .* found 1"),
        (dict(mode="hysteresis", aspect_ratio=0), "aspect_ratio .* found 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_crop_window(**arguments)
