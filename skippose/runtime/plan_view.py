"""A plan to look at: as a table, and as a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from skippose.runtime.plan import Conv, ConvTranspose, Linear, Op, Plan

# What the picture tells apart; colours that colour-blind people can tell apart too (Okabe, Ito).
_COLOURS = {"gated": "#0072B2", "dense": "#D55E00", "local": "#999999", "whole": "#CC79A7"}
_MEANING = {
    "gated": "convolution with a gate",
    "dense": "convolution or linear layer that always runs",
    "local": "touches changed pixels only",
    "whole": "recomputed as a whole when anything changed",
}


def table(plan: Plan) -> str:
    """One line for each operation: level, what it is, of which layer, from and to which maps.

    The last line counts operations, levels and the MACs of a dense frame.
    """
    rows = [("level", "operation", "layer", "from", "to", "MMACs", "block")]
    for op in plan.ops:
        out = plan.values[op.output]
        size = str(out.channels) if out.flat else f"{out.channels}x{out.height}x{out.width}"
        block = f"{op.block[0]}x{op.block[1]}" if isinstance(op, Conv) and op.gated else ""
        rows.append(
            (
                str(op.level),
                op.label,
                str(getattr(op, "key", "")),
                " ".join(f"v{v}" for v in op.inputs),
                f"v{op.output} {size}",
                f"{_macs(op, plan) / 1e6:.3f}" if _macs(op, plan) else "",
                block,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    macs = sum(_macs(op, plan) for op in plan.ops)
    lines.append(
        f"{len(plan.ops)} operations in {len(list(plan.levels()))} levels, "
        f"{macs / 1e9:.4g} GMACs for a dense frame of {plan.frame.height}x{plan.frame.width}"
    )
    return "\n".join(line.rstrip() for line in lines)


def draw(plan: Plan, path: str | Path) -> None:
    """Writes a picture of the plan: levels from left to right, the size of the maps downwards.

    Args:
        plan: what to draw.
        path: a .png, .svg or .pdf file.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture of a plan needs matplotlib: pip install it") from error
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
    most = max([_macs(op, plan) for op in plan.ops] + [1])
    for kind, colour in _COLOURS.items():
        ops = [op for op in plan.ops if _kind(op) == kind]
        if ops:
            axes.scatter(
                [places[op.output][0] for op in ops],
                [places[op.output][1] for op in ops],
                s=[12 + 120 * _macs(op, plan) / most for op in ops],
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


def _kind(op: Op) -> str:
    if isinstance(op, Conv):
        return "gated" if op.gated is not None else "dense"
    if isinstance(op, ConvTranspose | Linear):
        return "dense"
    return "local" if op.local else "whole"


def _macs(op: Op, plan: Plan) -> int:
    """Of a dense frame."""
    x, out = plan.values[op.inputs[0]], plan.values[op.output]
    if isinstance(op, Conv):
        return op.weight.numel() * out.height * out.width
    if isinstance(op, ConvTranspose):
        return op.weight.numel() * x.height * x.width
    return op.weight.numel() if isinstance(op, Linear) else 0


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
