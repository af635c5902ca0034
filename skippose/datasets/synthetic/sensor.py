"""From light to file: brightness that drifts, sensor noise, and a small video codec."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.fft import dctn, idctn

Array = np.ndarray
Rng = np.random.Generator
BLOCK = 16
SKIP = (0.75, 1.05)


@dataclass
class Sensor:
    """Noise and light of one clip.

    Attributes:
        gain: (T,) brightness.
        noise: float32 (h, w, 3), larger than a frame; each frame takes another part of it.
        corners: (T, 2) where that part begins, row and column.
    """

    gain: Array
    noise: Array
    corners: Array

    @classmethod
    def sample(cls, rng: Rng, frames: int, size: tuple[int, int]) -> Sensor:
        """Draw a sensor for frames of ``size`` (width, height)."""
        t = np.linspace(0, 1, frames)
        drift = rng.uniform(-0.06, 0.06) * t + rng.uniform(0, 0.015) * np.sin(rng.uniform(3, 9) * t)
        strength, extra = rng.uniform(0.8, 3.6), 40
        shape = (size[1] + extra, size[0] + extra)
        grey = rng.standard_normal((*shape, 1), dtype=np.float32)
        coloured = cv2.resize(
            rng.standard_normal((shape[0] // 2, shape[1] // 2, 3), dtype=np.float32), shape[::-1]
        )
        noise = strength * (0.8 * grey + 0.5 * coloured)
        gain = 1 + drift * (rng.random() < 0.35)
        return cls(gain, noise, rng.integers(0, extra, (frames, 2)))

    def expose(self, frame: Array, t: int) -> Array:
        """What the sensor makes of frame ``t``, float32 (H, W, 3)."""
        y, x = self.corners[t]
        height, width = frame.shape[:2]
        return frame * np.float32(self.gain[t]) + self.noise[y : y + height, x : x + width]


class Codec:
    """A video codec of the plain kind: what has hardly changed is not sent again.

    A frame is compared, in blocks of 16x16, with the one decoded before. A block whose luma differs
    by less than ``skip`` on average (and nowhere by much more) is repeated exactly; of the others
    the difference is transformed (8x8 cosine transform, chroma at half resolution), quantised with
    a dead zone, and added. There is no motion compensation.

    Args:
        step: quantiser step in grey levels; larger is worse.
        skip: mean absolute luma difference below which a block is repeated.
    """

    def __init__(self, step: float, skip: float) -> None:
        self.step = step
        self.skip = skip
        frequency = np.add.outer(np.arange(8), np.arange(8)).astype(np.float32)
        self.luma_steps = step * (1 + 0.18 * frequency)
        self.chroma_steps = 1.4 * step * (1 + 0.25 * frequency)
        self._luma: Array | None = None
        self._chroma: Array | None = None

    @classmethod
    def sample(cls, rng: Rng, noise: float) -> Codec:
        """Draw a quality; ``noise`` is the standard deviation of the sensor's noise."""
        step = float(rng.uniform(3.0, 13.0))
        # two noisy frames of the same thing differ by 1.13 standard deviations on average
        return cls(step, float(noise * rng.uniform(*SKIP) + 0.05 * step))

    def __call__(self, frame: Array) -> Array:
        """Encode and decode the next frame: (H, W, 3) BGR float32 -> uint8.

        Raises:
            ValueError: height or width is not a multiple of 16.
        """
        height, width = frame.shape[:2]
        if height % BLOCK or width % BLOCK:
            raise ValueError(f"frames must be multiples of {BLOCK} in size, found {width}x{height}")
        ycc = cv2.cvtColor(np.clip(frame, 0, 255).astype(np.float32) / 255, cv2.COLOR_BGR2YCrCb)
        ycc = (ycc * 255).astype(np.float32)
        half = cv2.resize(ycc[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        first = self._luma is None or self._chroma is None
        if self._luma is None or self._chroma is None:
            self._luma = np.full((height, width), 128, np.float32)
            self._chroma = np.full((height // 2, width // 2, 2), 127.5, np.float32)
        rows, columns = height // BLOCK, width // BLOCK
        # views: (rows, columns, 16, 16) and, for chroma, (rows, columns, 8, 8, 2)
        new = ycc[..., 0].reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
        old = self._luma.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
        difference = new - old
        error = np.abs(difference).reshape(rows, columns, 4, 4, 4, 4).mean(axis=(3, 5))
        sent = error.mean(axis=(2, 3)) >= (0.0 if first else self.skip)
        sent |= error.max(axis=(2, 3)) >= 3.2 * self.skip + 3.0  # no remnants of what has left
        rounding = 0.5 if first else 0.36
        luma = difference[sent].reshape(-1, 2, 8, 2, 8)
        steps = self.luma_steps[None, None, :, None, :]
        old[sent] += self._coarse(luma, steps, (2, 4), rounding).reshape(-1, BLOCK, BLOCK)
        new = half.reshape(rows, 8, columns, 8, 2).swapaxes(1, 2)
        old = self._chroma.reshape(rows, 8, columns, 8, 2).swapaxes(1, 2)
        steps = self.chroma_steps[None, :, :, None]
        old[sent] += self._coarse((new - old)[sent], steps, (1, 2), rounding)
        chroma = cv2.resize(self._chroma, (width, height), interpolation=cv2.INTER_LINEAR)
        decoded = np.dstack([self._luma, chroma]).astype(np.float32) / 255
        image = cv2.cvtColor(decoded, cv2.COLOR_YCrCb2BGR) * 255
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    @staticmethod
    def _coarse(difference: Array, steps: Array, axes: tuple[int, int], rounding: float) -> Array:
        """What is left of a difference after transform, quantisation and the way back."""
        if not len(difference):
            return difference
        scaled = dctn(difference, axes=axes, norm="ortho") / steps
        levels = np.sign(scaled) * np.floor(np.abs(scaled) + rounding)
        return idctn(levels * steps, axes=axes, norm="ortho").astype(np.float32)
