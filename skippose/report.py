"""What a gated network cost: MACs and density, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class LayerCost:
    """One layer (or one call of it) over all counted frames.

    Attributes:
        name: module name, with ``#n`` for the n-th further call within a frame.
        macs: multiply-accumulates of a dense frame.
        gate_macs: those of its gate, if it looked everywhere.
        additions: additions of its norm per frame, beside the MACs.
        gated: whether it has a gate.
        density_sum: sum over frames of the share of outputs computed.
        gate_density_sum: the same of outputs that the gate's own convolution looked at.
    """

    name: str
    macs: int
    gate_macs: int = 0
    additions: int = 0
    gated: bool = False
    density_sum: float = 0.0
    gate_density_sum: float = 0.0

    def same_layer(self, other: LayerCost) -> bool:
        """Whether two entries describe the same work."""
        mine = (self.name, self.macs, self.gate_macs, self.gated)
        return mine == (other.name, other.macs, other.gate_macs, other.gated)


@dataclass(frozen=True)
class StateMemory:
    """What a stream keeps between frames, of all its slots.

    Attributes:
        state_bytes: maps, and all that gates compare with; neither weights nor scratch memory.
        conv_bytes: inputs and outputs of the network's convolutions together, each counted where
            it is read or written, in the precision that the stream computes in.
    """

    state_bytes: int
    conv_bytes: int

    @property
    def ratio(self) -> float:
        """How many times the convolutions' inputs and outputs the state is."""
        return self.state_bytes / self.conv_bytes if self.conv_bytes else math.inf

    def __str__(self) -> str:
        return (
            f"state: {self.state_bytes / 1e6:.3g} MB, {self.ratio:.2f} times the convolutions' "
            "inputs and outputs"
        )


@dataclass(frozen=True)
class Report:
    """Costs of a network over clips or a stream; reports of the same network can be added.

    First frames are dense by necessity and are reported apart: ``frames`` counts the others, and
    densities are means over those. Frames that a cut or a refresh made dense count.

    Attributes:
        layers: in the order in which they ran.
        frames: counted frames, over all clips or slots.
        first_frames: first frames of clips or slots.
        memory: of the stream that it is a report of, where its backend knows; else None. Memory is
            not spent frame by frame: a sum of reports has that of the last one that knows it.
    """

    layers: tuple[LayerCost, ...] = field(default=(), repr=False)
    frames: int = 0
    first_frames: int = 0
    memory: StateMemory | None = None

    def __add__(self, other: Report) -> Report:
        if not self.layers:
            return other
        if not other.layers:
            return self
        if len(self.layers) != len(other.layers) or not all(
            a.same_layer(b) for a, b in zip(self.layers, other.layers, strict=True)
        ):
            raise ValueError(
                "reports of different networks or input sizes cannot be added: "
                f"{len(self.layers)} layers of {self.dense_gmacs:.4g} GMACs and "
                f"{len(other.layers)} layers of {other.dense_gmacs:.4g} GMACs"
            )
        layers = tuple(
            replace(
                a,
                density_sum=a.density_sum + b.density_sum,
                gate_density_sum=a.gate_density_sum + b.gate_density_sum,
            )
            for a, b in zip(self.layers, other.layers, strict=True)
        )
        return Report(
            layers,
            self.frames + other.frames,
            self.first_frames + other.first_frames,
            other.memory or self.memory,
        )

    def beside(self, other: Report, suffix: str) -> Report:
        """The work of two passes over the same frames (a flip test), the second's names marked."""
        if (self.frames, self.first_frames) != (other.frames, other.first_frames):
            raise ValueError(
                f"passes over different frames: {self.frames} + {self.first_frames} first ones "
                f"and {other.frames} + {other.first_frames}"
            )
        more = tuple(replace(layer, name=layer.name + suffix) for layer in other.layers)
        return replace(self, layers=self.layers + more)

    def density(self, layer: LayerCost) -> float:
        """Mean share of a layer's outputs that were computed; NaN before a second frame."""
        return layer.density_sum / self.frames if self.frames else math.nan

    def _gate_density(self, layer: LayerCost) -> float:
        return layer.gate_density_sum / self.frames if self.frames else math.nan

    @property
    def dense_gmacs(self) -> float:
        """GMACs of a frame of the dense network."""
        return sum(layer.macs for layer in self.layers) / 1e9

    @property
    def first_gmacs(self) -> float:
        """GMACs of a first frame: dense, and no gate looks at it."""
        return self.dense_gmacs

    @property
    def gate_gmacs(self) -> float:
        """GMACs per frame that the gates themselves spend."""
        return sum(x.gate_macs * self._gate_density(x) for x in self.layers if x.gate_macs) / 1e9

    @property
    def gmacs(self) -> float:
        """GMACs per frame after the first, gates included."""
        return sum(x.macs * self.density(x) for x in self.layers) / 1e9 + self.gate_gmacs

    @property
    def gadds(self) -> float:
        """Giga-additions per frame of the gates' norms, not part of the MACs."""
        return sum(layer.additions for layer in self.layers) / 1e9

    @property
    def reduction(self) -> float:
        """How many times fewer MACs than dense; infinite for a still video."""
        if math.isnan(self.gmacs):
            return math.nan
        return self.dense_gmacs / self.gmacs if self.gmacs > 0 else math.inf

    @property
    def sparsity(self) -> float:
        """Mean over gated layers of the share of outputs that were skipped."""
        skipped = [1 - self.density(layer) for layer in self.layers if layer.gated]
        return sum(skipped) / len(skipped) if skipped else 0.0

    @property
    def densities(self) -> dict[str, float]:
        """Density of every gated layer by name."""
        return {layer.name: self.density(layer) for layer in self.layers if layer.gated}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON: totals, and one entry per layer.

        What is not finite (the reduction of a still video, a density before a second frame) is
        None: JSON has no other word for it.
        """
        return {
            "gmacs": _finite(self.gmacs),
            "dense_gmacs": self.dense_gmacs,
            "first_gmacs": self.first_gmacs,
            "gate_gmacs": _finite(self.gate_gmacs),
            "gadds": self.gadds,
            "reduction": _finite(self.reduction),
            "sparsity": _finite(self.sparsity),
            "frames": self.frames,
            "first_frames": self.first_frames,
            "state_bytes": None if self.memory is None else self.memory.state_bytes,
            "conv_bytes": None if self.memory is None else self.memory.conv_bytes,
            "layers": [
                {
                    "name": layer.name,
                    "macs": layer.macs,
                    "gate_macs": layer.gate_macs,
                    "gated": layer.gated,
                    "density": _finite(self.density(layer)),
                }
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        """A table: layer, MACs of a dense frame, density, share of the MACs that were spent."""
        width = max([len(layer.name) for layer in self.layers] + [5])
        lines = [f"{'layer':<{width}}  {'MMACs':>10}  {'density':>8}  {'share':>7}"]
        spent = self.gmacs * 1e9
        for layer in self.layers:
            density = self.density(layer)
            cost = layer.macs * density + layer.gate_macs * self._gate_density(layer)
            share = cost / spent if spent else 0.0
            mark = "" if layer.gated else "  always dense"
            lines.append(
                f"{layer.name:<{width}}  {layer.macs / 1e6:>10.3f}  {density:>8.4f}  "
                f"{share:>7.2%}{mark}"
            )
        lines.append(
            f"{self.frames} frames: {self.gmacs:.4g} GMACs per frame, {self.gate_gmacs:.3g} of "
            f"them by gates (dense {self.dense_gmacs:.4g}, reduction {self.reduction:.3g}x, mean "
            f"sparsity {self.sparsity:.4f}); {self.first_frames} first frames at "
            f"{self.first_gmacs:.4g} GMACs; norms {self.gadds:.3g} G additions"
        )
        if self.memory is not None:
            lines.append(str(self.memory))
        return "\n".join(lines)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def total(reports: Sequence[Report]) -> Report:
    """The sum of reports of one network."""
    return sum(reports, Report())
