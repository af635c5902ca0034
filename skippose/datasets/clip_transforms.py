"""Transforms whose draw is one for the clip and whose effect moves from frame to frame.

A network that has only seen still cameras and steady light in training meets a residual everywhere
as soon as the camera shakes or the light drifts. Both transforms go into the pipeline of a
:class:`~skippose.datasets.clip_dataset.ClipDataset`, which repeats a clip's draw in all frames
(``cache_randomness``) and tells each frame its ``position``.
"""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmpose.registry import TRANSFORMS

_WAVES = 3
_SLOWEST, _FASTEST = 0.02, 0.25  # cycles a frame: half a hertz to six at 25 frames a second


@TRANSFORMS.register_module()
class ClipCameraJitter(BaseTransform):
    """Shakes the camera: the crop moves over the image by a smooth random course.

    A sum of three oscillations with random directions, frequencies and phases, by a root mean
    square of `strength` pixels of the image. The crop is moved rather than the image, so the image
    is not resampled once more and nothing is lost at its border. Stands between
    ``GetBBoxCenterScale`` (and what follows it of crop transforms) and ``TopdownAffine``.

    Args:
        prob: share of the clips that are shaken.
        strength: least and greatest root mean square of the shift, in pixels of the image.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, prob: float = 0.5, strength: tuple[float, float] = (0.5, 4.0)) -> None:
        self.prob, self.strength = _probability(prob), _interval("strength", strength)

    @cache_randomness
    def _course(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Amplitudes (W, 2) in pixels, phases (W, 2) and angular speeds (W, 1) of W waves."""
        if np.random.rand() >= self.prob:
            return None
        amplitude = np.random.randn(_WAVES, 2)
        # a sine's root mean square is its amplitude over the square root of two
        amplitude *= np.random.uniform(*self.strength) * np.sqrt(2 / np.square(amplitude).sum())
        phase = np.random.uniform(0, 2 * np.pi, (_WAVES, 2))
        stretch = np.log(_FASTEST / _SLOWEST) * np.random.rand(_WAVES, 1)
        speed = 2 * np.pi * _SLOWEST * np.exp(stretch)
        return amplitude, phase, speed

    def transform(self, results: dict) -> dict:
        """Moves ``bbox_center`` (1, 2) by the course at ``position``, the index in the clip."""
        course = self._course()
        if course is not None:
            amplitude, phase, speed = course
            shift = (amplitude * np.sin(speed * results["position"] + phase)).sum(axis=0)
            results["bbox_center"] = results["bbox_center"] + shift.astype(np.float32)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob}, strength={self.strength})"


@TRANSFORMS.register_module()
class ClipExposureDrift(BaseTransform):
    """Lets the exposure drift: brightness rises or falls a little from frame to frame.

    Frame t of the clip is multiplied by ``2 ** (rate * (t - t0))``, with t0 somewhere within `span`
    frames, and clipped to the range of the image.

    Args:
        prob: share of the clips whose exposure drifts.
        rate: least and greatest drift in stops a frame; the sign is drawn.
        span: frames within which the exposure is the camera's own.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self, prob: float = 0.5, rate: tuple[float, float] = (0.005, 0.03), span: int = 8
    ) -> None:
        self.prob, self.rate = _probability(prob), _interval("rate", rate)
        if span < 1:
            raise ValueError(f"span must be at least 1 frame, found {span}")
        self.span = span

    @cache_randomness
    def _drift(self) -> tuple[float, float] | None:
        """Stops a frame, and the frame that is left as it is."""
        if np.random.rand() >= self.prob:
            return None
        sign = np.random.choice([-1.0, 1.0])
        return float(sign * np.random.uniform(*self.rate)), float(np.random.uniform(0, self.span))

    def transform(self, results: dict) -> dict:
        """Scales ``img`` (H, W, C), uint8 or float of 0 to 255."""
        drift = self._drift()
        if drift is not None:
            rate, start = drift
            gain = 2 ** (rate * (results["position"] - start))
            image = results["img"].astype(np.float32) * gain
            image = np.clip(image, 0, 255)
            whole = np.issubdtype(results["img"].dtype, np.integer)
            results["img"] = (np.round(image) if whole else image).astype(results["img"].dtype)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob}, rate={self.rate}, span={self.span})"


def _probability(prob: float) -> float:
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must lie between 0 and 1, found {prob}")
    return prob


def _interval(name: str, interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if not 0 < low <= high < np.inf:
        raise ValueError(f"{name} must be (least, greatest) with 0 < least <= greatest: {interval}")
    return float(low), float(high)
