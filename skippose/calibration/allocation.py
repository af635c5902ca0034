"""Where thresholds go, from what each layer's threshold costs and saves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from skippose.calibration.sensitivity import Sensitivity


def allocate(found: Sensitivity, target_gmacs: float) -> np.ndarray:
    """The level of each layer that gives the least error at ``target_gmacs``.

    Errors and MACs of layers are assumed to add up, so each layer minimises
    ``error + multiplier * MACs`` by itself (Everett, Operations Research 1963); the multiplier is
    bisected until the MACs meet the target.

    Args:
        found: errors and MACs, layer by layer and level by level.
        target_gmacs: of the gated layers together.

    Returns:
        (L,) indices of levels: those of the smallest MACs that are at least the target, or the
        most expensive ones if even those stay below.
    """

    def choice(multiplier: float) -> np.ndarray:
        # The first of equals: the smallest threshold, where a layer costs nothing at any.
        return np.argmin(found.error + multiplier * found.gmacs, axis=1)

    def spent(levels: np.ndarray) -> float:
        return float(np.take_along_axis(found.gmacs, levels[:, None], 1).sum())

    low, high = -40.0, 40.0  # exponents of e
    for _ in range(80):
        middle = (low + high) / 2
        if spent(choice(math.exp(middle))) >= target_gmacs:
            low = middle
        else:
            high = middle
    return choice(math.exp(low))


class Scaled(NamedTuple):
    """A factor on all thresholds, and what it gives."""

    factor: float
    value: float


class Unreachable(ValueError):
    """No factor gives what was asked for; the message says what can be had."""


def scale_to(
    measure: Callable[[float], float],
    target: float,
    falling: bool,
    what: str,
    tolerance: float = 0.02,
    tries: int = 16,
    reach: tuple[float, float] = (1e-3, 1e3),
) -> Scaled:
    """The factor on all thresholds at which a measured quantity meets its target.

    Brackets the target by doubling, then divides the bracket, on logarithmic axes, where a straight
    line puts the target, or in the middle where that is a poor guess.

    Args:
        measure: factor to quantity, by a run of the network.
        target: what it shall be.
        falling: whether it falls with the factor (MACs) or rises (loss).
        what: the quantity's name and unit, for errors.
        tolerance: greatest relative distance to the target. A rising quantity must not exceed it.
        tries: runs at most after the target is bracketed.
        reach: smallest and largest factor.

    Raises:
        Unreachable: if the target lies outside of what the factors in ``reach`` give.
    """
    # From here on the quantity rises with the factor and the target is 0.
    sign = -1.0 if falling else 1.0
    low, high = Scaled(1.0, measure(1.0)), Scaled(1.0, math.nan)
    high = low

    def above(point: Scaled) -> bool:
        return sign * point.value > sign * target

    step = 2.0
    while above(low) and low.factor > reach[0]:
        high, low = low, _at(measure, max(low.factor / step, reach[0]))
        step *= 1.5
    step = 2.0
    while not above(high) and high.factor < reach[1]:
        low, high = high, _at(measure, min(high.factor * step, reach[1]))
        step *= 1.5
    if above(low) or (not above(high) and not _near(high.value, target, tolerance, falling)):
        ends = sorted((low.value, high.value))
        least, most = (_at(measure, factor).value for factor in reach)
        ends = sorted((*ends, least, most))
        raise Unreachable(
            f"{what} cannot be brought to {target:.4g}: with these gates and clips it lies between "
            f"{ends[0]:.4g} and {ends[-1]:.4g}"
        )
    best = low
    for n in range(tries):
        candidates = [p for p in (low, high) if _near(p.value, target, tolerance, falling)]
        if candidates:
            return min(candidates, key=lambda p: abs(p.value - target))
        a, b = math.log(low.factor), math.log(high.factor)
        share = 0.5
        if n % 3 < 2 and low.value > 0 and high.value > 0 and target > 0:
            share = math.log(target / low.value) / math.log(high.value / low.value)
            share = min(max(share, 0.1), 0.9)
        point = _at(measure, math.exp(a + share * (b - a)))
        low, high = (low, point) if above(point) else (point, high)
        best = low
    return best


def _at(measure: Callable[[float], float], factor: float) -> Scaled:
    return Scaled(factor, measure(factor))


def _near(value: float, target: float, tolerance: float, falling: bool) -> bool:
    if not falling and value > target:
        return False
    return abs(value - target) <= tolerance * abs(target)
