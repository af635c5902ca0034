"""How far a figure over clips would move if other clips had been filmed."""

from __future__ import annotations

import numpy as np


def resamples(clips: int, count: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each clip is drawn in each of ``count`` draws of as many clips, with replacement.

    The same numbers give the same draws, so that rows which saw the same clips can be compared draw
    by draw (a paired bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Returns:
        (count, clips) integers; every row sums to ``clips``.
    """
    if clips < 1:
        raise ValueError(f"a bootstrap needs at least one clip, got {clips}")
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), count)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrapped values (R,); draws that are NaN are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
