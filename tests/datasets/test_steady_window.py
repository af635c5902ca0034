"""The window that follows the background, and when it does not."""

import numpy as np
import pytest

from skippose.datasets.camera_motion import CameraMotion
from skippose.datasets.crop_windows import HysteresisWindow, clip_windows
from skippose.datasets.steady_window import SteadyWindow, steady_windows

from .pans import SIZE, make_backdrop, pan

STILL = np.array([[1.0, 0, 0], [0, 1, 0]])


@pytest.fixture(scope="module")
def backdrop() -> np.ndarray:
    return make_backdrop()


def watch(images: list, boxes: np.ndarray) -> SteadyWindow:
    """A steady window that has seen a clip."""
    camera, steady = CameraMotion(), SteadyWindow(HysteresisWindow())
    for image, box in zip(images, boxes, strict=True):
        steady.update(box, image, camera.update(image, [box]))
    return steady


@pytest.mark.parametrize("speed", [1.0, 2.5, 3.3, 6.0])
def test_a_pan_over_a_person_who_stands_there_is_followed_by_whole_pixels(backdrop, speed):
    images, boxes = pan(backdrop, speed, 14, person=-speed)
    windows = steady_windows(images, boxes, HysteresisWindow())
    shifts = windows - windows[0]
    assert np.array_equal(shifts, np.round(shifts))
    expected = -speed * np.arange(14)
    assert np.abs(shifts[:, 0] - expected).max() <= 0.5 + 0.3  # rounding, and the estimate
    without, spent = watch(images, boxes).spent
    assert spent < 0.5 * without


def test_a_still_camera_leaves_the_hysteresis_as_it_is(backdrop):
    images, boxes = pan(backdrop, 0.0, 12, person=4.0)
    found = steady_windows(images, boxes, HysteresisWindow())
    assert np.array_equal(found, clip_windows("hysteresis", boxes))
    without, spent = watch(images, boxes).spent
    assert spent == without > 0


@pytest.mark.parametrize("person", [-9.0, -2.0, 0.0, 1.0, 4.0])
@pytest.mark.parametrize("speed", [0.4, 1.0, 2.7, 6.0])
def test_it_does_not_cost_more_whoever_moves(backdrop, speed, person):
    """Also where the camera follows the person, and where the two run against each other."""
    images, boxes = pan(backdrop, speed, 40, person if 140 + 39 * person > 0 else -3.0)
    without, spent = watch(images, boxes).spent
    assert spent <= without


def test_with_nothing_saved_nothing_is_followed(backdrop):
    """The account is of measured costs; a debt stops the shifts until it is paid."""
    images, boxes = pan(backdrop, 3.0, 12, person=-3.0)
    camera, steady, windows = CameraMotion(), SteadyWindow(HysteresisWindow()), []
    for t, (image, box) in enumerate(zip(images, boxes, strict=True)):
        windows.append(steady.update(box, image, camera.update(image, [box])))
        if t == 5:
            steady._window.spent += 100.0
    shifts = np.diff(np.stack(windows)[:, 0])
    assert (shifts[:5] == -3).all() and (shifts[5:] == 0).all()


def test_motion_that_was_not_followed_is_forgotten(backdrop):
    images, boxes = pan(backdrop, 3.0, 9, person=-3.0)
    camera, steady, windows = CameraMotion(), SteadyWindow(HysteresisWindow()), []
    for t, (image, box) in enumerate(zip(images, boxes, strict=True)):
        steady._window.spent += {2: 100.0, 5: -100.0}.get(t, 0.0)
        windows.append(steady.update(box, image, camera.update(image, [box])))
    assert np.diff(np.stack(windows)[:, 0]).tolist() == [-3, 0, 0, 0, -3, -3, -3, -3]


def test_new_crops_are_said_to_be_placed(backdrop):
    images, boxes = pan(backdrop, 0.0, 10, person=8.0)
    steady = SteadyWindow(HysteresisWindow())
    windows, placed = [], []
    for image, box in zip(images, boxes, strict=True):
        windows.append(steady.update(box, image, STILL))
        placed.append(steady.placed)
    moved = [True] + [not np.array_equal(a, b) for a, b in zip(windows, windows[1:], strict=False)]
    assert placed == moved and 1 < sum(placed) < 10


def test_a_bad_box_changes_nothing(backdrop):
    images, boxes = pan(backdrop, 3.0, 8, person=-3.0)
    motion = np.array([[1.0, 0, -3], [0, 1, 0]])
    plain, disturbed = SteadyWindow(HysteresisWindow()), SteadyWindow(HysteresisWindow())
    for image, box in zip(images, boxes, strict=True):
        with pytest.raises(ValueError, match="x2 > x1"):
            disturbed.update(np.zeros(4), image, motion)
        expected = plain.update(box, image, motion)
        assert np.array_equal(disturbed.update(box, image, motion), expected)
        assert disturbed.spent == plain.spent


def test_after_a_reset_another_video_begins(backdrop):
    images, boxes = pan(backdrop, 3.0, 8, person=-3.0)
    steady = watch(images, boxes)
    steady.reset()
    assert np.array_equal(steady.update(boxes[0] + 30, images[0], STILL), boxes[0] + 30)
    assert steady.placed and steady.spent == (0.0, 0.0)


def test_bad_arguments():
    for eps in ((), (0.1, -1)):
        with pytest.raises(ValueError, match=r"eps must be thresholds .* found \("):
            SteadyWindow(HysteresisWindow(), eps=eps)
    with pytest.raises(ValueError, match="gain .* found 0"):
        SteadyWindow(HysteresisWindow(), gain=0)
    with pytest.raises(ValueError, match="no area|x2 > x1"):
        SteadyWindow(HysteresisWindow()).update(np.zeros(4), np.zeros(SIZE, np.uint8), STILL)
