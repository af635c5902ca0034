"""Charts of densities and MACs, as pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skippose.visualization.gate_trace import GateTrace
from skippose.visualization.layer_tags import part_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# From the palette of Okabe and Ito, which colour-blind people can tell apart.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
)  # fmt: skip
_PARTS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)


def density_heat_map(trace: GateTrace, title: str = "") -> NDArray[np.uint8]:
    """Layers over time: (H, W, 3) RGB, bright where much was computed."""

    def draw(axes: Axes) -> None:
        image = axes.imshow(
            trace.density, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest"
        )
        starts = _parts(trace)
        for part, first, last in starts:
            if first:
                axes.axhline(first - 0.5, color="white", linewidth=0.6)
            if last - first + 1 >= 0.015 * len(trace.names):
                axes.text(
                    -0.01, (first + last) / 2, part, transform=axes.get_yaxis_transform(),
                    ha="right", va="center", fontsize=8,
                )  # fmt: skip
        axes.set_yticks([])
        axes.set_xlabel("frame")
        axes.set_title(title or f"density of {len(trace.names)} layers", fontsize=9)
        bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
        bar.set_label("share of outputs computed")

    return _picture((9, 5.5), draw)


def density_bars(trace: GateTrace, title: str = "") -> NDArray[np.uint8]:
    """Mean density of each layer in the network's order: (H, W, 3) RGB."""

    def draw(axes: Axes) -> None:
        for n, (part, first, last) in enumerate(_parts(trace)):
            at = np.arange(first, last + 1)
            colour = _PARTS[n % len(_PARTS)]
            axes.bar(at, trace.means[at], width=1.0, color=colour)
            if last - first + 1 >= 0.015 * len(trace.names):
                axes.text(
                    (first + last) / 2, -0.02, part, transform=axes.get_xaxis_transform(),
                    ha="right", va="top", rotation=30, fontsize=8, color=colour,
                )  # fmt: skip
        axes.set_xlim(-1, len(trace.names))
        axes.set_ylim(0, 1)
        axes.set_xticks([])
        axes.set_ylabel("density after the first frame")
        axes.grid(axis="y", alpha=0.3)
        share = trace.macs @ trace.means / trace.macs.sum()
        axes.axhline(share, color="0.25", linestyle="--", linewidth=1)
        axes.text(
            1, share, f" mean by MACs {share:.1%}", transform=axes.get_yaxis_transform(),
            fontsize=8, va="center", ha="right",
            bbox={"color": "white", "pad": 1.0},
        )  # fmt: skip
        axes.set_title(title or f"{len(trace.names)} layers in the network's order", fontsize=9)

    return _picture((10, 3.6), draw)


def macs_over_time(trace: GateTrace, title: str = "") -> NDArray[np.uint8]:
    """GMACs of each frame, with the frames marked that were computed in full: (H, W, 3) RGB."""

    def draw(axes: Axes) -> None:
        gmacs = trace.gmacs
        axes.axhline(trace.dense_gmacs, color="0.25", linestyle="--", linewidth=1, label="dense")
        for n, t in enumerate(trace.cuts):
            axes.axvline(
                t, color=VERMILION, linewidth=1, label=None if n else "cut or refresh: in full"
            )
        axes.plot(gmacs, color=BLUE, linewidth=1.5, marker="o", markersize=2.5, label="this clip")
        axes.set_ylim(0, 1.08 * trace.dense_gmacs)
        axes.set_xlabel("frame")
        axes.set_ylabel("GMACs")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        after = gmacs[1:] if len(gmacs) > 1 else gmacs
        axes.set_title(
            title
            or f"{after.mean():.4g} GMACs per frame after the first, dense {trace.dense_gmacs:.4g}",
            fontsize=9,
        )

    return _picture((10, 3), draw)


def _parts(trace: GateTrace) -> list[tuple[str, int, int]]:
    """Runs of layers of the same part: its name, the first and the last index."""
    runs = []
    for part, group in groupby(range(len(trace.names)), lambda n: part_of(trace.names[n])):
        rows = list(group)
        runs.append((part, rows[0], rows[-1]))
    return runs


def _picture(size: tuple[float, float], draw: Callable[[Any], None]) -> NDArray[np.uint8]:
    # Not at the top: importing skippose must not pull in a plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=110)
    canvas = FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
