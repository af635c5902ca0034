"""Procedural textures: multi-octave noise, fabrics, colours."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

Array = np.ndarray
Rng = np.random.Generator


def octaves(
    rng: Rng, height: int, width: int, base: float = 64.0, count: int = 4, decay: float = 0.55
) -> Array:
    """Smooth noise with detail at several scales.

    Args:
        rng: source of the noise.
        height: rows.
        width: columns.
        base: size in pixels of the coarsest features; each octave halves it.
        count: number of octaves.
        decay: strength of each octave relative to the one before.

    Returns:
        float32 (height, width) with mean 0 and standard deviation 1.
    """
    total = np.zeros((height, width), np.float32)
    strength = 1.0
    for octave in range(count):
        cell = max(base / 2**octave, 1.0)
        grid = (int(np.ceil(height / cell)) + 3, int(np.ceil(width / cell)) + 3)
        coarse = rng.standard_normal(grid, dtype=np.float32)
        size = (round(grid[1] * cell), round(grid[0] * cell))
        fine = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        total += strength * fine[:height, :width]
        strength *= decay
    total -= total.mean()
    return total / max(float(total.std()), 1e-6)


def colour(
    rng: Rng,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.1, 0.9),
    value: tuple[float, float] = (0.15, 0.9),
) -> Array:
    """A random colour, BGR float32 (3,) of 0 to 255."""
    h, s, v = (rng.uniform(*span) for span in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h % 1.0, s, v)[::-1], np.float32) * 255


def skin(rng: Rng) -> Array:
    """A skin colour, BGR float32 (3,)."""
    light, dark = np.array([168, 196, 232], np.float32), np.array([42, 62, 98], np.float32)
    mix = rng.uniform() ** 1.3
    tone = light * (1 - mix) + dark * mix
    return (tone * rng.uniform(0.95, 1.05, 3)).astype(np.float32)


def fabric(rng: Rng, size: tuple[int, int], base: Array, pattern: str = "plain") -> Array:
    """Cloth as a texture of ``size`` (height, width), BGR float32 (height, width, 3).

    Columns run once around the limb, from the back over the person's right, the front (middle) and
    the left; rows run along it.

    Raises:
        ValueError: an unknown pattern.
    """
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    cloth = np.broadcast_to(base, (height, width, 3)).copy()
    other = colour(rng, value=(0.2, 0.95))
    period = rng.uniform(5, 14)
    if pattern == "hoops":
        where = np.sin(2 * np.pi * y / period) > rng.uniform(-0.2, 0.6)
    elif pattern == "stripes":
        where = np.sin(2 * np.pi * x / period) > rng.uniform(-0.2, 0.6)
    elif pattern == "checks":
        where = (np.sin(2 * np.pi * x / period) > 0.3) ^ (np.sin(2 * np.pi * y / period) > 0.3)
    elif pattern == "print":  # something in the middle of the chest
        where = ((x - width / 2) / (0.1 * width)) ** 2 + ((y / height - 0.32) / 0.14) ** 2 < 1
        where &= octaves(rng, height, width, 9, 2) > -0.5
    elif pattern == "jacket":  # open in front: a shirt shows
        where = np.abs(x - width / 2) < (0.035 + 0.05 * rng.uniform()) * width
    elif pattern == "plain":
        where = np.zeros((height, width), bool)
    else:
        raise ValueError(f"unknown pattern {pattern!r}")
    cloth[where] = other
    folds = 1 + 0.07 * octaves(rng, height, width, 16, 4)
    return cloth * folds[..., None]


def bgr(tone: Array) -> tuple[float, float, float]:
    """A colour as OpenCV's drawing functions take it."""
    blue, green, red = (float(channel) for channel in tone)
    return blue, green, red
