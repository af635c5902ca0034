"""Accuracy over MACs, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Okabe and Ito's palette, told apart by colour-blind readers too; without its black and yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"


class Point(NamedTuple):
    """One network: a curve's name, GMACs per frame, and for each panel a value and its interval."""

    curve: str
    gmacs: float
    values: Sequence[tuple[float, float, float]]


def draw_curves(
    path: Path,
    panels: Sequence[str],
    points: Sequence[Point],
    dense: Sequence[float],
    frozen: Sequence[float],
    dense_gmacs: float,
    title: str = "",
) -> None:
    """Draws one panel for each metric and writes the picture.

    Points of one curve are joined. The dense network is a line that ends in a star, the frozen
    first frame a dotted line.

    Args:
        path: the file; its ending says the format.
        panels: the metrics' names.
        points: the networks. Those without any MACs are left out: the axis is logarithmic.
        dense: value for each panel, as a share.
        frozen: the same.
        dense_gmacs: GMACs of the dense network.
        title: above the picture.
    """
    # Not at the top: importing skippose must not pull in a plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(5.5 * len(panels), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    curves = dict.fromkeys(point.curve for point in points if point.gmacs > 0)
    for n, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), n + 1)
        axes.axhline(100 * dense[n], color="0.25", linewidth=1, label="dense")
        axes.plot(dense_gmacs, 100 * dense[n], "*", color="0.25", markersize=10)
        axes.axhline(100 * frozen[n], color="0.25", linewidth=1, linestyle=":", label="frozen")
        for k, curve in enumerate(curves):
            found = sorted(p for p in points if p.curve == curve and p.gmacs > 0)
            values = [[100 * value for value in point.values[n]] for point in found]
            axes.errorbar(
                [point.gmacs for point in found],
                [value for value, _, _ in values],
                yerr=[
                    [max(value - low, 0) for value, low, _ in values],
                    [max(high - value, 0) for value, _, high in values],
                ],
                color=_COLOURS[k % len(_COLOURS)],
                marker=_MARKERS[(k + k // len(_COLOURS)) % len(_MARKERS)],
                markersize=5,
                linewidth=1.5,
                elinewidth=0.7,
                label=curve,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("GMACs per frame (after a clip's first)")
        axes.set_ylabel(f"{panel} (%)")
        axes.grid(alpha=0.2, which="both")
        if n == 0:
            handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
