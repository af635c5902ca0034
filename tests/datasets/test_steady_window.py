"""The window that follows the background, and when it does not."""

import cv2
import numpy as np
import pytest

from skippose.datasets.crop_windows import HysteresisWindow, clip_windows
from skippose.datasets.steady_window import CameraMotion, SteadyWindow, steady_windows

SIZE = (200, 320)  # height, width


@pytest.fixture(scope="module")
def backdrop() -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (60, 120), np.uint8)
    return cv2.GaussianBlur(
        cv2.resize(coarse, (960, 480), interpolation=cv2.INTER_CUBIC), (0, 0), 2
    )


def view(backdrop: np.ndarray, x: float, y: float = 100.0) -> np.ndarray:
    """What a camera sees whose left upper corner is at (x, y) of the backdrop."""
    matrix = np.array([[1, 0, -x], [0, 1, -y]], float)
    return cv2.warpAffine(backdrop, matrix, SIZE[::-1], flags=cv2.INTER_CUBIC)


def with_person(image: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """The image with a bright upright bar in it, and the bar's box."""
    image = image.copy()
    left = round(x)
    image[60:140, left : left + 40] = 255
    return image, np.array([left, 60, left + 40, 140], np.float32)


def pan(backdrop: np.ndarray, speed: float, frames: int, person: float) -> tuple[list, np.ndarray]:
    """A pan to the right; the person goes through the picture with ``person`` pixels a frame."""
    made = [with_person(view(backdrop, 200 + speed * t), 140 + person * t) for t in range(frames)]
    return [image for image, _ in made], np.stack([box for _, box in made])


@pytest.mark.parametrize("speed", [1.0, 2.5, 3.3, 6.0])
def test_the_backgrounds_motion_is_found_and_the_persons_is_not(backdrop, speed):
    images, boxes = pan(backdrop, speed, 5, person=9.0)
    camera = CameraMotion()
    assert np.array_equal(camera.update(images[0], boxes[:1]), [[1, 0, 0], [0, 1, 0]])
    for image, box in zip(images[1:], boxes[1:], strict=True):
        motion = camera.update(image, [box])
        at = motion @ [160, 100, 1] - [160, 100]
        assert at == pytest.approx([-speed, 0], abs=0.15)


def test_without_a_background_the_camera_counts_as_still():
    camera = CameraMotion()
    for value in (0, 90, 200):
        motion = camera.update(np.full((*SIZE, 3), value, np.uint8))
        assert np.array_equal(motion, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("speed", [1.0, 2.5, 3.3, 6.0])
def test_a_pan_over_a_person_who_stands_there_is_followed_by_whole_pixels(backdrop, speed):
    images, boxes = pan(backdrop, speed, 14, person=-speed)
    windows = steady_windows(images, boxes, HysteresisWindow())
    shifts = windows - windows[0]
    assert np.array_equal(shifts, np.round(shifts))
    expected = -speed * np.arange(14)
    assert np.abs(shifts[:, 0] - expected).max() <= 0.5 + 0.3  # rounding, and the estimate


def test_a_still_camera_leaves_the_hysteresis_as_it_is(backdrop):
    images, boxes = pan(backdrop, 0.0, 12, person=4.0)
    window = HysteresisWindow()
    found = steady_windows(images, boxes, window)
    assert np.array_equal(found, clip_windows("hysteresis", boxes))


def test_new_crops_are_said_to_be_placed(backdrop):
    images, boxes = pan(backdrop, 0.0, 10, person=8.0)
    steady = SteadyWindow(HysteresisWindow())
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    windows, placed = [], []
    for image, box in zip(images, boxes, strict=True):
        windows.append(steady.update(box, image, identity))
        placed.append(steady.placed)
    moved = [True] + [not np.array_equal(a, b) for a, b in zip(windows, windows[1:], strict=False)]
    assert placed == moved and 1 < sum(placed) < 10


def test_bad_arguments():
    with pytest.raises(ValueError, match="min_inliers"):
        CameraMotion(corners=5)
    with pytest.raises(ValueError, match="eps .* found -1"):
        SteadyWindow(HysteresisWindow(), eps=-1)
    with pytest.raises(ValueError, match="gain .* found 0"):
        SteadyWindow(HysteresisWindow(), gain=0)
    with pytest.raises(ValueError, match="no area|x2 > x1"):
        SteadyWindow(HysteresisWindow()).update(np.zeros(4), np.zeros(SIZE, np.uint8), np.eye(2, 3))
