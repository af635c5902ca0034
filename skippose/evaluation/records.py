"""The figures of a comparison: accuracy, cost, what was lost, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skippose.evaluation.bootstrap import interval, resamples
from skippose.evaluation.comparison import Result
from skippose.evaluation.scores import METRICS

SUBSETS = ("all", "still", "moving")
"""Clips by their camera."""

LOSS = ("PCK@0.2", "PCK@0.1", "late PCK@0.2", "late PCK@0.1")
"""The metrics that a loss is given for."""

_ROUNDING = 1e-9


def record(
    result: Result,
    dense: Result,
    frozen: Result,
    limbs: list[int] | None,
    draws: int = 2000,
) -> dict[str, Any]:
    """All figures of one row over one subset of clips.

    The loss is ``(dense - this) / (dense - frozen)``: 0 is as good as the dense network on the same
    crop windows, 1 no better than holding the first frame's answer. NaN where holding it costs
    nothing. Intervals are 95% of a bootstrap over clips; differences are paired.

    Args:
        result: the row.
        dense: the dense network on the same clips and crop windows.
        frozen: the first frame's answer on the same.
        limbs: the joints of the ``13``-joint figures; None leaves those out.
        draws: bootstrap draws.

    Raises:
        ValueError: if the three saw different clips.
    """
    if not result.clip_ids == dense.clip_ids == frozen.clip_ids:
        raise ValueError("rows over different clips cannot be compared")
    weights = resamples(len(result.clip_ids), draws)
    figures: dict[str, Any] = {
        "n_clips": len(result.clip_ids),
        "frames": int(result.frames.sum()) + len(result.clip_ids),
    }
    for n, metric in enumerate(METRICS):
        name = metric.name
        value, drawn = result.scores.pck(n)[0], result.scores.pck(n, weights)
        figures[name] = value
        figures[f"{name} low"], figures[f"{name} high"] = interval(drawn)
        if limbs is not None and not metric.late:
            figures[f"{name} 13 joints"] = result.scores.pck(n, joints=limbs)[0]
        if name not in LOSS:
            continue
        lost = dense.scores.pck(n, weights) - drawn
        span = dense.scores.pck(n, weights) - frozen.scores.pck(n, weights)
        low, high = interval(-lost)
        figures[f"{name} - dense"] = value - dense.scores.pck(n)[0]
        figures[f"{name} - dense low"], figures[f"{name} - dense high"] = low, high
        figures[f"{name} loss"] = float(
            _share(dense.scores.pck(n)[0] - value, dense.scores.pck(n)[0] - frozen.scores.pck(n)[0])
        )
        low, high = interval(_share(lost, span))
        figures[f"{name} loss low"], figures[f"{name} loss high"] = low, high
    report = result.report
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (weights @ result.spent) / (weights @ result.frames)
    low, high = interval(drawn)
    figures.update(
        {
            "GMACs": report.gmacs,
            "GMACs low": low,
            "GMACs high": high,
            "first GMACs": report.first_gmacs,
            "gate GMACs": report.gate_gmacs,
            "dense GMACs": dense.report.dense_gmacs,
            "reduction": dense.report.dense_gmacs / report.gmacs if report.gmacs else float("inf"),
            "sparsity": report.sparsity,
        }
    )
    return figures


def _share(lost: Any, span: Any) -> Any:
    """``lost / span``; NaN where the dense network is no better than a frozen one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(span) > _ROUNDING, np.asarray(lost) / span, np.nan)


def equal_budgets(
    first: Sequence[Result], second: Sequence[Result], count: int = 5, draws: int = 2000
) -> list[dict[str, float]]:
    """Accuracy of two curves where they cost the same.

    Each curve is a network at several thresholds. Between two neighbours its accuracy is read off a
    straight line over log(GMACs). The budgets lie at even distances of log(GMACs) over the range
    that both curves cover, ends included.

    Args:
        first: results of one curve, over the same clips.
        second: those of the other.
        count: how many budgets.
        draws: bootstrap draws over clips, for the 95% interval of the difference.

    Returns:
        For each budget ``GMACs`` and, for each of `LOSS`, ``first``, ``second``, ``first - second``
        and its ``low`` and ``high``, with the metric's name before.

    Raises:
        ValueError: for clips that differ, or curves whose ranges do not overlap.
    """
    if any(r.clip_ids != first[0].clip_ids for r in (*first, *second)):
        raise ValueError("curves over different clips cannot be compared")
    curves = [sorted(curve, key=lambda r: r.report.gmacs) for curve in (first, second)]
    costs = [np.array([r.report.gmacs for r in curve]) for curve in curves]
    low, high = max(c[0] for c in costs), min(c[-1] for c in costs)
    if not 0 < low < high:
        raise ValueError(
            "the curves have no budgets in common: "
            + " and ".join(f"{c[0]:.4g} to {c[-1]:.4g} GMACs" for c in costs)
        )
    weights = resamples(len(first[0].clip_ids), draws)
    found: list[dict[str, float]] = []
    for budget in np.geomspace(low, high, count):
        figures = {"GMACs": float(budget)}
        for n, metric in enumerate(METRICS):
            if metric.name not in LOSS:
                continue
            values, drawn = [], []
            for curve, cost in zip(curves, costs, strict=True):
                place = float(np.interp(np.log(budget), np.log(cost), np.arange(len(cost))))
                here = min(int(place), len(curve) - 2) if len(curve) > 1 else 0
                pair = curve[here : here + 2]
                shares = np.array([1 - (place - here), place - here])[: len(pair)]
                values.append(float(shares @ [r.scores.pck(n)[0] for r in pair]))
                drawn.append(shares @ np.stack([r.scores.pck(n, weights) for r in pair]))
            ends = interval(drawn[0] - drawn[1])
            figures.update(
                {
                    f"{metric.name} first": values[0],
                    f"{metric.name} second": values[1],
                    f"{metric.name} first - second": values[0] - values[1],
                    f"{metric.name} low": ends[0],
                    f"{metric.name} high": ends[1],
                }
            )
        found.append(figures)
    return found
