"""The convolution that skips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skippose.gates import Gate, build_gate
from skippose.gates.gumbel import GumbelGate
from skippose.layers.active import active_pass, inside_backward
from skippose.ops import REFERENCES, Convolution, GatedConvolution, Reference


class SkipConv2d(nn.Conv2d):
    """``nn.Conv2d`` that, inside a gated pass, runs only where its gate opens.

    Parameters and state-dict keys are those of ``nn.Conv2d``, plus ``gate.*``. Outside
    :func:`skippose.clips` and :class:`skippose.Stream` it *is* ``nn.Conv2d``. It holds no state.

    Args:
        *args: as for ``nn.Conv2d``.
        gate: a gate, its config, or None for a layer that always runs in full.
        reference: ``'hold'``: the gate sees the change since an output was last computed;
            ``'previous'``: since the frame before (the paper).
        **kwargs: as for ``nn.Conv2d``.

    Raises:
        ValueError: for an unknown reference, or one that the gate cannot serve.
    """

    gate: Gate | None

    def __init__(
        self,
        *args: Any,
        gate: Gate | Mapping[str, Any] | None = None,
        reference: Reference = "hold",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.set_gate(gate, reference)
        self._trained_gated = False
        self.name = ""  # for error messages

    def set_gate(
        self, gate: Gate | Mapping[str, Any] | None, reference: Reference = "hold"
    ) -> None:
        """Gives the layer a gate of its own, made from the given one; None removes it."""
        if reference not in REFERENCES:
            raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
        template = build_gate(gate)
        if (
            isinstance(template, GumbelGate)
            and template.rectify
            and (reference, template.source) == ("hold", "residual")
        ):
            raise ValueError(
                "GumbelGate(rectify=True) needs reference='previous': with 'hold' the gate "
                "remembers φ*x, from which |d| cannot be had"
            )
        self.reference: Reference = reference
        self.gate = None if template is None else template.for_layer(self)
        if self.gate is not None:
            self.gate.train(self.training)

    def gated(self, frame_size: tuple[int, int], height: int, width: int) -> GatedConvolution:
        """The layer's operation on inputs of (height, width) in frames of ``frame_size``."""
        if self.gate is None:
            raise ValueError("this layer has no gate")
        conv = Convolution.of(self)
        block = self.gate.block_on(conv.geometry.out_size(height, width), frame_size)
        return GatedConvolution(conv, self.gate, self.reference, block)

    @property
    def macs_per_location(self) -> int:
        """MACs of all output channels at one output location; groups are counted."""
        return self.weight.numel()

    def dense(self, x: Tensor) -> Tensor:
        """The ordinary convolution."""
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        run = active_pass()
        if run is not None:
            if self.training:
                self._trained_gated = True
            return run.skip_conv(self, x)
        if self.training and not torch.compiler.is_compiling():
            if self._trained_gated and inside_backward():
                raise RuntimeError(
                    "activation checkpointing recomputes this layer outside the clip it was "
                    "trained in, which would give wrong gradients; use skippose.context.checkpoint "
                    "(SkipHRNet does with with_cp=True)"
                )
            self._trained_gated = False
        return super().forward(x)

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, gate: Gate | Mapping[str, Any] | None, reference: Reference = "hold"
    ) -> SkipConv2d:
        """A skip convolution that takes over the parameters (and hooks) of ``conv``."""
        new = cls.__new__(cls)
        new.__dict__.update(conv.__dict__)
        # Registries are copied so that a gate added here does not show up in the original.
        for name in ("_parameters", "_buffers", "_modules"):
            new.__dict__[name] = dict(conv.__dict__[name])
        new._trained_gated = False
        new.name = ""
        new.set_gate(gate, reference)
        return new
