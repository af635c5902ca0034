"""The picture of a plan."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skippose.plan.op import Op, Pixelwise
from skippose.plan.operators.conv import Conv
from skippose.plan.plan import Plan

# What the picture tells apart; colours that colour-blind people can tell apart too (Okabe, Ito).
_COLOURS = {"gated": "#0072B2", "dense": "#D55E00", "local": "#999999", "whole": "#CC79A7"}
_MEANING = {
    "gated": "convolution with a gate",
    "dense": "convolution or linear layer that always runs",
    "local": "pixel by pixel",
    "whole": "reads windows, or whole maps",
}


def draw_plan(plan: Plan, path: str | Path) -> None:
    """Writes a picture of the plan: levels from left to right, the size of the maps downwards.

    Args:
        plan: what to draw.
        path: a .png, .svg or .pdf file.
    """
    places = _places(plan)
    depth = max(x for x, _ in places.values()) + 1
    height = max(y for _, y in places.values()) + 1
    figure = Figure(figsize=(min(40.0, 2 + 0.32 * depth), min(20.0, 1.5 + 0.36 * height)))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for op in plan.ops:
        x, y = places[op.output]
        for v in op.inputs:
            x0, y0 = places[v]
            axes.plot([x0, x], [y0, y], color="#cccccc", linewidth=0.7, zorder=1)
    most = max([op.macs(plan.values) for op in plan.ops] + [1])
    for kind, colour in _COLOURS.items():
        ops = [op for op in plan.ops if op.place(_Kinds()) == kind]
        if ops:
            axes.scatter(
                [places[op.output][0] for op in ops],
                [places[op.output][1] for op in ops],
                s=[12 + 120 * op.macs(plan.values) / most for op in ops],
                color=colour,
                label=_MEANING[kind],
                zorder=2,
            )
    axes.scatter(*places[0], marker="s", color="black", label="the frame", zorder=2)
    ticks: dict[float, list[float]] = defaultdict(list)
    for op in plan.ops:
        ticks[plan.scale(op.output)].append(places[op.output][1])
    axes.set_yticks([sum(ys) / len(ys) for ys in ticks.values()])
    axes.set_yticklabels([f"1/{stride:g}" for stride in ticks])
    axes.set_ylabel("size of the maps")
    axes.set_xlabel("level: operations of one level are independent")
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    axes.set_title("Area: MACs of a dense frame")
    figure.savefig(path, dpi=120, bbox_inches="tight")


class _Kinds:
    """What the picture calls each operation."""

    def whole(self, op: Op) -> str:
        return "whole" if op.key is None else "dense"

    def pixelwise(self, op: Pixelwise) -> str:
        return "local"

    def convolution(self, op: Conv) -> str:
        return "dense" if op.gated is None else "gated"


def _places(plan: Plan) -> dict[int, tuple[float, float]]:
    """(level, row) of every value; rows of maps of one size lie together."""
    strides = sorted({plan.scale(op.output) for op in plan.ops} | {1.0})
    crowd: dict[tuple[float, int], list[int]] = defaultdict(list)
    for op in plan.ops:
        crowd[plan.scale(op.output), op.level].append(op.output)
    rows = {
        stride: max([len(values) for (s, _), values in crowd.items() if s == stride] + [1])
        for stride in strides
    }
    first, start = {}, 0.0
    for stride in strides:
        first[stride] = start
        start += rows[stride] + 1
    places: dict[int, tuple[float, float]] = {0: (0.0, first[1.0])}
    for (stride, level), values in crowd.items():
        for i, value in enumerate(values):
            places[value] = (float(level), first[stride] + i)
    return places
