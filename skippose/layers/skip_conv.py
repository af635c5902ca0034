"""The convolution that skips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.fx
from torch import Tensor, nn

from skippose.gates import Gate, build_gate
from skippose.layers import active
from skippose.layers.active import (
    GatedPass,
    active_pass,
    inside_backward,
    note_outside,
    watches,
)
from skippose.layers.dense import count_macs
from skippose.ops import REFERENCES, Convolution, GatedConvolution, Reference


def bind_gate(
    conv: nn.Conv2d, gate: Gate | Mapping[str, Any] | None, reference: Reference
) -> Gate | None:
    """A gate for one convolution, made from a template and in the convolution's mode.

    Raises:
        ValueError: for an unknown reference.
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
    template = build_gate(gate)
    if template is None:
        return None
    return template.for_layer(conv).train(conv.training)


def layer_name(layer: nn.Module) -> str:
    """What an error calls a layer: its name if it was given one, its shape otherwise."""
    name = getattr(layer, "name", "")
    return f"layer {name!r}" if name else f"layer {layer}"


def why_not_skipped(conv: nn.Module) -> str | None:
    """What keeps a convolution from being skipped; None for one that computes as ``nn.Conv2d``.

    A gate computes with weights and geometry alone, and would leave out what else there is.
    """
    if not isinstance(conv, nn.Conv2d):
        return "it is no nn.Conv2d"
    gated = isinstance(conv, SkipConv2d)
    # What replaced the forward of a skip convolution may call it.
    for method in ("_conv_forward",) if gated else ("_conv_forward", "forward"):
        if method in vars(conv):
            return f"its {method} was replaced on the object"
        if getattr(type(conv), method) is not getattr(nn.Conv2d, method):
            return f"its class has a {method} of its own"
    if gated:
        return None
    if hasattr(conv, "parametrizations"):
        return "it is parametrized"
    if isinstance(conv.weight, nn.parameter.UninitializedParameter):
        return "its weights are not there yet"
    return None


class SkipConv2d(nn.Conv2d):
    """``nn.Conv2d`` that, inside a gated pass, runs only where its gate opens.

    Parameters and state-dict keys are those of ``nn.Conv2d``, plus ``gate.*``. Outside
    :func:`skippose.clips` and :class:`skippose.Stream` it *is* ``nn.Conv2d``. It holds no state.
    ``torch.fx`` takes it for one operation, as it does ``nn.Conv2d``.

    Args:
        *args: as for ``nn.Conv2d``.
        gate: a gate, its config, or None for a layer that always runs in full.
        reference: ``'hold'``: the gate sees the change since an output was last computed;
            ``'previous'``: since the frame before (the paper).
        **kwargs: as for ``nn.Conv2d``.

    Raises:
        ValueError: for an unknown reference.
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
        self._ran_gated = False  # the last forward pass, for the check in `forward`
        self.name = ""  # for error messages

    def set_gate(
        self, gate: Gate | Mapping[str, Any] | None, reference: Reference = "hold"
    ) -> None:
        """Gives the layer a gate of its own, made from the given one; None removes it."""
        bound = bind_gate(self, gate, reference)
        self.gate, self.reference = bound, reference

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

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        run = active_pass()
        if run is not None:
            return active.outside_compiler(self._run_in, run, input)
        if isinstance(input, torch.fx.Proxy):
            return self._traced(input)
        if watches and self.gate is not None:
            active.outside_compiler(note_outside, self)
        if self._ran_gated:
            if inside_backward():
                raise RuntimeError(
                    "activation checkpointing recomputes this layer outside the clip it ran in, "
                    "which would give wrong gradients; use skippose.context.checkpoint "
                    "(SkipHRNet does with with_cp=True)"
                )
            self._ran_gated = False
        return super().forward(input)

    def _run_in(self, run: GatedPass, x: Tensor) -> Tensor:
        """The layer in a pass; see :meth:`forward`."""
        if self.gate is not None and (reason := why_not_skipped(self)):
            raise ValueError(
                f"{layer_name(self)} cannot be skipped: {reason}, and its gate would compute "
                "without that; set_gate(None) leaves it dense"
            )
        self._ran_gated = True
        return run.skip_conv(self, x)

    def _traced(self, x: Any) -> Any:
        """Of ``nn.Conv2d``, fx keeps the call and not what it is made of: its graph has gates."""
        if self._forward_hooks or self._forward_pre_hooks:
            return super().forward(x)  # they are in the graph by now, and would be called twice
        return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, gate: Gate | Mapping[str, Any] | None, reference: Reference = "hold"
    ) -> SkipConv2d:
        """A skip convolution that takes over the parameters (and hooks) of ``conv``.

        Raises:
            ValueError: for a convolution that does not compute as ``nn.Conv2d`` does.
        """
        if reason := why_not_skipped(conv):
            raise ValueError(f"{conv} cannot be skipped: {reason}")
        new = cls.__new__(cls)
        for name, value in conv.__dict__.items():
            # Registries are copied, so that what is added here does not show up in the original.
            new.__dict__[name] = value.copy() if isinstance(value, dict) else value
        for key, hook in list(new._forward_hooks.items()):
            if hook is count_macs:  # it counts itself
                del new._forward_hooks[key]
        new._ran_gated = False
        new.name = ""
        new.set_gate(gate, reference)
        return new
