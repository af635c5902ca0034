"""Views of a wide backdrop by a camera that pans, with a bright bar as the person."""

import cv2
import numpy as np

SIZE = (200, 320)  # height, width


def make_backdrop() -> np.ndarray:
    """(480, 960) grey levels with structure of some pixels."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (60, 120), np.uint8)
    wide = cv2.resize(coarse, (960, 480), interpolation=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(wide, (0, 0), 2)


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
