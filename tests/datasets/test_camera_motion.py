"""The background's motion, on views of a still backdrop."""

import numpy as np
import pytest

from skippose.datasets.camera_motion import CameraMotion

from .pans import SIZE, make_backdrop, pan, view

STILL = [[1, 0, 0], [0, 1, 0]]


@pytest.fixture(scope="module")
def backdrop() -> np.ndarray:
    return make_backdrop()


def moved(motion: np.ndarray) -> np.ndarray:
    """By how much the middle of the picture moves, (2,) pixels."""
    return motion @ [SIZE[1] / 2, SIZE[0] / 2, 1] - [SIZE[1] / 2, SIZE[0] / 2]


@pytest.mark.parametrize("speed", [1.0, 2.5, 3.3, 6.0])
def test_the_backgrounds_motion_is_found_and_the_persons_is_not(backdrop, speed):
    images, boxes = pan(backdrop, speed, 5, person=9.0)
    camera = CameraMotion()
    assert np.array_equal(camera.update(images[0], boxes[:1]), STILL)
    for image, box in zip(images[1:], boxes[1:], strict=True):
        assert moved(camera.update(image, [box])) == pytest.approx([-speed, 0], abs=0.15)


def test_errors_do_not_add_up_under_noise_that_stays_in_the_picture(backdrop):
    """A sensor's pattern draws a slow flow to zero, in each frame anew if frames are chained."""
    pattern = np.random.default_rng(0).normal(0, 6, SIZE)
    images = [
        np.clip(view(backdrop, 200 + t) + pattern, 0, 255).astype(np.uint8) for t in range(24)
    ]
    camera, at = CameraMotion(), np.zeros(2)
    for image in images:
        at += moved(camera.update(image))
    assert at == pytest.approx([-23, 0], abs=0.5)


def test_the_key_frame_is_replaced_when_the_picture_has_gone_by(backdrop):
    camera, at = CameraMotion(), np.zeros(2)
    for t in range(60):
        at += moved(camera.update(view(backdrop, 20 + 9.5 * t)))
    assert at == pytest.approx([-9.5 * 59, 0], abs=2)


def test_without_a_background_the_camera_counts_as_still():
    camera = CameraMotion()
    for value in (0, 90, 200):
        motion = camera.update(np.full((*SIZE, 3), value, np.uint8))
        assert np.array_equal(motion, STILL)


def test_a_cut_to_another_scene_counts_as_still_and_the_next_frame_goes_on_from_there(backdrop):
    camera = CameraMotion()
    camera.update(view(backdrop, 100))
    assert np.array_equal(camera.update(np.full(SIZE, 90, np.uint8)), STILL)
    assert np.array_equal(camera.update(view(backdrop, 300)), STILL)
    assert moved(camera.update(view(backdrop, 303))) == pytest.approx([-3, 0], abs=0.15)


def test_another_size_begins_anew(backdrop):
    camera = CameraMotion()
    camera.update(view(backdrop, 100))
    assert np.array_equal(camera.update(view(backdrop, 104)[:150]), STILL)
    assert moved(camera.update(view(backdrop, 107)[:150])) == pytest.approx([-3, 0], abs=0.15)


def test_bad_arguments():
    with pytest.raises(ValueError, match="min_inliers"):
        CameraMotion(corners=5)
    with pytest.raises(ValueError, match="keep .* found 2"):
        CameraMotion(keep=2)
