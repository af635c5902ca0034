"""What a gated pass computed, frame by frame: the numbers behind pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skippose.frames_pass import CallRecord, FramesPass
from skippose.gates import GumbelGate
from skippose.layers import SkipConv2d, active_pass, gated_layers, module_names


def gated_records(run: FramesPass, net: nn.Module) -> dict[str, CallRecord]:
    """The records of a pass's gated layers by name, with ``#n`` for the n-th further call."""
    names = module_names(net)
    return {
        names[call.layer] + (f"#{call.number}" if call.number else ""): record
        for call, record in run.records.items()
        if record.density is not None
    }


@dataclass(frozen=True)
class GateTrace:
    """Densities of one clip's gated layers over time.

    Attributes:
        names: the L gated layers, in the order in which they ran.
        macs: (L,) of a dense frame.
        density: (L, T) share of outputs computed.
        dense: (T,) bool: frames computed in full, be it the first, a refresh or a cut.
        other_macs: (T,) those of layers without a gate, and of the gates' own convolutions.
        dense_gmacs: of a frame of the dense network.
    """

    names: tuple[str, ...]
    macs: NDArray[np.float64]
    density: NDArray[np.float64]
    dense: NDArray[np.bool_]
    other_macs: NDArray[np.float64]
    dense_gmacs: float

    @classmethod
    def of(cls, run: FramesPass, net: nn.Module, clip: int = 0) -> GateTrace:
        """The trace of one clip (or slot) of a pass.

        Raises:
            ValueError: if no gated layer ran.
        """
        gated = gated_records(run, net)
        if not gated:
            raise ValueError("no gated layer ran: nothing to show")
        ungated = sum(r.macs for r in run.records.values() if r.density is None)
        # One transfer from the device for all layers.
        density = _rows([r.density for r in gated.values()], clip)
        looked = _rows([r.gate_density for r in gated.values()], clip)
        macs = np.array([r.macs for r in gated.values()], np.float64)
        gate_macs = np.array([r.gate_macs for r in gated.values()], np.float64)
        return cls(
            names=tuple(gated),
            macs=macs,
            density=density,
            dense=run.dense[clip].numpy().copy(),
            other_macs=ungated + gate_macs @ looked,
            dense_gmacs=float(macs.sum() + ungated) / 1e9,
        )

    @property
    def gmacs(self) -> NDArray[np.float64]:
        """(T,) GMACs of each frame, gates included."""
        return (self.macs @ self.density + self.other_macs) / 1e9

    @property
    def cuts(self) -> list[int]:
        """Frames after the first that were computed in full."""
        return [int(t) for t in np.flatnonzero(self.dense) if t]

    @property
    def means(self) -> NDArray[np.float64]:
        """(L,) densities over the frames after the first; over all of a clip of one frame."""
        return self.density[:, 1 if self.density.shape[1] > 1 else 0 :].mean(1)


def _rows(values: list[Tensor | None], clip: int) -> NDArray[np.float64]:
    rows = torch.stack([v[clip].detach() for v in values if v is not None])
    return rows.double().cpu().numpy()


class PassWatch:
    """Keeps hold of the gated pass that a network runs in, whoever began it.

    Costs nothing but one hook on the first gated layer, until :meth:`remove`.

    Args:
        net: the network.

    Raises:
        ValueError: for a network without gated layers.
    """

    def __init__(self, net: nn.Module) -> None:
        first = next(iter(gated_layers(net).values()), None)
        if first is None:
            raise ValueError(f"{type(net).__name__} has no gated convolution")
        self.run: FramesPass | None = None
        self._handle: RemovableHandle = first.register_forward_pre_hook(self._see)

    def _see(self, *_: Any) -> None:
        run = active_pass()
        if isinstance(run, FramesPass):
            self.run = run

    def remove(self) -> None:
        """Takes the hook away."""
        self._handle.remove()


class LogitWatch:
    """Collects samples of what Gumbel gates see, in logits, until :meth:`remove`.

    Args:
        layers: gated layers by name; those with other gates are left out.
        limit: about how many logits of each call are kept.
    """

    def __init__(self, layers: dict[str, SkipConv2d], limit: int = 4096) -> None:
        self._found: dict[str, list[Tensor]] = {}
        self._limit = limit
        self._gates: list[GumbelGate] = []
        for name, layer in layers.items():
            if isinstance(layer.gate, GumbelGate):
                self._gates.append(layer.gate)
                layer.gate.observer = partial(self._note, self._found.setdefault(name, []))

    def _note(self, found: list[Tensor], logits: Tensor) -> None:
        flat = logits.flatten()
        found.append(flat[:: max(1, flat.numel() // self._limit)].float())

    @property
    def logits(self) -> dict[str, Tensor]:
        """Logits by layer, without the noise, one-dimensional, on the CPU."""
        return {name: torch.cat(found).cpu() for name, found in self._found.items() if found}

    def remove(self) -> None:
        """Stops collecting."""
        for gate in self._gates:
            gate.observer = None
        self._gates = []
