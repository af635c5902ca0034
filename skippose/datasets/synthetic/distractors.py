"""Other things that move: balls, cars, birds, a screen, leaves in the wind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .scene import Scene, foliage
from .texture import bgr, colour, octaves

Array = np.ndarray
Rng = np.random.Generator


@dataclass
class Sprite:
    """A picture that moves over the backdrop.

    Attributes:
        image: BGR float32 (h, w, 3).
        alpha: (h, w).
        affine: (T, 2, 3), from the sprite's pixels to the backdrop's.
        gain: (T,) brightness.
        front: whether it is before the person.
    """

    image: Array
    alpha: Array
    affine: Array
    gain: Array
    front: bool = False

    def paint(self, frame: Array, camera: Array, t: int) -> None:
        """Draw frame ``t`` onto ``frame`` (H, W, 3), through the camera's affine (2, 3)."""
        height, width = self.alpha.shape
        own = np.vstack([self.affine[t], [0, 0, 1]])
        matrix = camera @ own
        corners = (
            np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ matrix.T
        )
        low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, frame.shape[1::-1])
        if (low >= high).any():
            return
        matrix = matrix.copy()
        matrix[:, 2] -= low
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        image = cv2.warpAffine(self.image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(self.alpha, matrix, size)[..., None]
        view = frame[low[1] : high[1], low[0] : high[0]]
        view += alpha * (image * np.float32(self.gain[t]) - view)


def _moves(path: Array) -> Array:
    """Positions (T, 2) of a sprite's corner -> affine (T, 2, 3)."""
    affine = np.zeros((len(path), 2, 3))
    affine[:, 0, 0] = affine[:, 1, 1] = 1
    affine[:, :, 2] = path
    return affine


def _ball(rng: Rng, scene: Scene, frames: int) -> Sprite:
    """A ball that bounces through the picture."""
    n = int(rng.integers(9, 22))
    y, x = (np.mgrid[0:n, 0:n].astype(np.float32) - (n - 1) / 2) / (n / 2 - 1)
    radius = np.sqrt(x**2 + y**2)
    shade = 0.6 + 0.4 * np.clip(-0.5 * x - 0.6 * y + 0.6, 0, 1)
    image = colour(rng, value=(0.4, 1.0)) * shade[..., None]
    image[np.abs(x + 0.3 * y) < 0.16] = colour(rng)
    h, w = scene.backdrop.shape[:2]
    t = np.arange(frames)
    ground = min(scene.horizon + rng.uniform(2, 30), h - n)
    phase = rng.uniform(0, 1) + t / rng.uniform(9, 18)
    speed = rng.uniform(1.5, 6) * rng.choice([-1, 1])
    start = rng.uniform(0.2 * w, 0.8 * w) - speed * frames / 2
    up = rng.uniform(15, 90) * 4 * (phase % 1) * (1 - phase % 1)
    path = np.stack([start + speed * t, ground - n - up], axis=1)
    return Sprite(image, np.clip((1 - radius) * n / 2, 0, 1), _moves(path), np.ones(frames))


def _car(rng: Rng, scene: Scene, frames: int) -> Sprite:
    """A car that drives by, far behind."""
    w, h = int(rng.integers(60, 120)), int(rng.integers(24, 42))
    image, alpha = np.zeros((h, w, 3), np.float32), np.zeros((h, w), np.float32)
    paint = colour(rng, saturation=(0.0, 0.9), value=(0.2, 0.95))
    hull = np.array([[0, 0.82], [0.02, 0.5], [0.2, 0.42], [0.32, 0.06], [0.7, 0.06], [0.82, 0.42],
                     [0.98, 0.5], [1, 0.82]]) * [w - 1, h - 1]  # fmt: skip
    cv2.fillPoly(alpha, [hull.astype(np.int32)], 1.0, cv2.LINE_AA)
    image[:] = paint * np.linspace(1.15, 0.7, h, dtype=np.float32)[:, None, None]
    glass = np.array([[0.27, 0.4], [0.36, 0.13], [0.66, 0.13], [0.75, 0.4]]) * [w - 1, h - 1]
    cv2.fillPoly(image, [glass.astype(np.int32)], (90, 80, 70), cv2.LINE_AA)
    cv2.line(image, (w // 2, 2), (w // 2, int(0.75 * h)), bgr(paint * 0.6), 1, cv2.LINE_AA)
    for x in (0.22, 0.78):
        centre, radius = (int(x * w), int(0.8 * h)), int(0.19 * h)
        cv2.circle(alpha, centre, radius, 1.0, -1, cv2.LINE_AA)
        cv2.circle(image, centre, radius, (25, 25, 25), -1, cv2.LINE_AA)
        cv2.circle(image, centre, radius // 2, (150, 150, 150), -1, cv2.LINE_AA)
    speed = rng.uniform(1.0, 7.0) * rng.choice([-1, 1])
    start = rng.uniform(0.1, 0.8) * scene.backdrop.shape[1] - speed * frames / 2
    t = np.arange(frames)
    path = np.stack([start + speed * t, np.full(frames, scene.horizon - 0.85 * h)], axis=1)
    return Sprite(image, alpha, _moves(path), np.ones(frames))


def _bird(rng: Rng, scene: Scene, frames: int) -> Sprite:
    """A dark blot that flies past above."""
    n = int(rng.integers(7, 15))
    alpha = np.zeros((n, 2 * n), np.float32)
    cv2.ellipse(alpha, (n, n // 2), (n - 1, max(n // 5, 1)), rng.uniform(-15, 15), 0, 360, 1, -1)
    t = np.arange(frames)
    speed = rng.uniform(2, 7) * rng.choice([-1, 1])
    start = rng.uniform(0.2, 0.8) * scene.backdrop.shape[1] - speed * frames / 2
    up = rng.uniform(0.1, 0.5) * scene.horizon + 6 * np.sin(t * rng.uniform(0.2, 0.6))
    image = np.full((n, 2 * n, 3), 40, np.float32)
    return Sprite(image, alpha, _moves(np.stack([start + speed * t, up], 1)), np.ones(frames))


def _screen(rng: Rng, scene: Scene, frames: int) -> Sprite:
    """A television that flickers."""
    w, h = int(rng.integers(30, 70)), int(rng.integers(22, 45))
    image = np.clip(110 + 60 * octaves(rng, h, w, 20)[..., None] + rng.uniform(-50, 50, 3), 0, 255)
    image[[0, 1, -1, -2]] = image[:, [0, 1, -1, -2]] = 25
    span = scene.backdrop.shape[1]
    at = np.array([rng.uniform(0.2, 0.7) * span, rng.uniform(0.35, 0.7) * scene.horizon])
    scenes = np.cumsum(rng.random(frames) < 0.15)  # its picture changes now and then
    gain = rng.uniform(0.6, 1.3, frames + 1)[scenes]
    path = np.broadcast_to(at, (frames, 2))
    return Sprite(image.astype(np.float32), np.ones((h, w), np.float32), _moves(path), gain)


def _leaves(rng: Rng, scene: Scene, frames: int) -> Sprite:
    """A bush that sways: before the person it stands at the border only."""
    w, h = int(rng.integers(40, 110)), int(rng.integers(45, 150))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    inside = 1 - ((x - w / 2) / (0.5 * w)) ** 2 - ((y - 0.6 * h) / (0.6 * h)) ** 2
    alpha = np.clip((inside + 0.3 * octaves(rng, h, w, 12, 3)) * 6, 0, 1)
    height, span = scene.backdrop.shape[:2]
    front = bool(rng.random() < 0.35)
    side = int(rng.choice([-1, 1]))
    if front:
        left = scene.margin[0] - 0.55 * w if side < 0 else span - scene.margin[0] - 0.45 * w
        bottom = height - scene.margin[1] + 10.0
    else:
        left = span / 2 + side * rng.uniform(20, 140) - w / 2
        bottom = scene.horizon + rng.uniform(0, 10)
    t = np.arange(frames)
    calm = 0.5 + 0.5 * np.sin(t * rng.uniform(0.03, 0.1) + rng.uniform(0, 6))
    sway = rng.uniform(0.01, 0.06) * calm * np.sin(t * rng.uniform(0.15, 0.5) + rng.uniform(0, 6))
    affine = np.zeros((frames, 2, 3))
    affine[:, 0, 0] = affine[:, 1, 1] = 1
    affine[:, 0, 1] = sway  # sheared about its foot
    affine[:, 0, 2] = left - sway * h
    affine[:, 1, 2] = bottom - h
    image = foliage(rng, h, w).astype(np.float32)
    return Sprite(image, alpha, affine, np.ones(frames), front)


def make_distractors(rng: Rng, scene: Scene, frames: int) -> list[Sprite]:
    """Draw none to two of the things that fit the scene."""
    indoors: list[Callable] = [_ball, _screen, _screen]
    outdoors: list[Callable] = [_ball, _car, _bird, _leaves, _leaves]
    kinds = indoors if scene.indoors else outdoors
    count = int(rng.choice(3, p=[0.35, 0.45, 0.2]))
    sprites = [kinds[int(rng.integers(len(kinds)))](rng, scene, frames) for _ in range(count)]
    for sprite in sprites:
        sprite.image = np.ascontiguousarray(sprite.image * scene.tint, np.float32)
        sprite.alpha = np.ascontiguousarray(sprite.alpha, np.float32)
    return sprites
