"""How the camera moves: not at all, following the person, or held by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

Array = np.ndarray
Rng = np.random.Generator
KINDS = ("still", "pan", "shake")


@dataclass
class Camera:
    """A camera's movement.

    Attributes:
        kind: one of `KINDS`.
        affine: (T, 2, 3), from backdrop pixels to frame pixels.
    """

    kind: str
    affine: Array

    def project(self, points: Array) -> Array:
        """Backdrop points (T, N, 2) to frame pixels (T, N, 2)."""
        return points @ self.affine[:, :, :2].transpose(0, 2, 1) + self.affine[:, None, :, 2]


def make_camera(
    rng: Rng, kind: str, person: Array, size: tuple[int, int], margin: tuple[int, int]
) -> Camera:
    """Draw a camera.

    Args:
        rng: where all choices come from.
        kind: one of `KINDS`. A still camera shows the middle of the backdrop, exactly.
        person: (T,) the person's way to the right from the first frame on, pixels.
        size: width and height of a frame.
        margin: how far the backdrop reaches beyond the frame, as in `scene.Scene`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"camera must be one of {KINDS}, found {kind!r}")
    frames = len(person)
    shift = np.zeros((frames, 2))
    angle, zoom = np.zeros(frames), np.ones(frames)
    if kind == "pan":
        t = np.linspace(0, 1, frames)
        follow = rng.uniform(0.3, 1.0) * gaussian_filter1d(person, 4, mode="nearest")
        drift = rng.uniform(-50, 50) * t**2 * (3 - 2 * t) * (rng.random() < 0.6)
        shift[:, 0] = follow + drift
        shift[:, 1] = rng.uniform(-8, 8) * t
        zoom += rng.uniform(0, 0.12) * t * (rng.random() < 0.3)
    if kind == "shake" or (kind == "pan" and rng.random() < 0.5):
        strength = rng.uniform(0.6, 3.5) if kind == "shake" else rng.uniform(0.3, 1.5)
        smooth = rng.uniform(1.0, 4.0)
        noise = gaussian_filter1d(rng.standard_normal((frames + 20, 3)), smooth, axis=0)[10:-10]
        noise = noise[:frames] / max(float(noise.std()), 1e-6)
        shift += strength * noise[:, :2]
        angle += np.deg2rad(0.15 * strength) * noise[:, 2]
    reach = np.array(margin) - 14.0
    shift = reach * np.tanh(shift / reach)
    centre = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2])
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)  # (T, 2, 2)
    middle = centre + np.array(margin) + shift
    offset = centre - (linear @ middle[:, :, None])[:, :, 0]
    return Camera(kind, np.concatenate([linear, offset[:, :, None]], axis=2))
