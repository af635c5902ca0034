"""The figures of a comparison: accuracy, cost, what was lost, and how sure that is."""

from __future__ import annotations

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
