"""Convolutions, gated or dense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from skippose.gates import Gate
from skippose.ops import ConvGeometry, Convolution, GatedConvolution, Reference
from skippose.ops.gate_spec import GateSpec
from skippose.ops.geometry import accumulation_dtype
from skippose.plan.errors import BackendError
from skippose.plan.examples import Example, layer
from skippose.plan.op import (
    Arguments,
    GraphBuilder,
    Key,
    NativeBuilder,
    Node,
    NodeBuilder,
    Op,
    Value,
)
from skippose.plan.operators.conv_transpose import trace_transposed
from skippose.plan.operators.pointwise import affine
from skippose.plan.registry import register
from skippose.plan.tracing import pair, require


@register("convolution")
@dataclass(frozen=True)
class Conv(Op):
    """``act(affine(w * x + b) + add)``, gated or dense; inputs are (x, \\*add).

    What is held or accumulated between frames is the convolution, ``w * x + b`` with these
    weights; affine, additions and activation are applied to what is held. With ``affine`` the
    weights are the layer's own: the gate looks at its response. Otherwise batch norm is folded
    into them.

    Attributes:
        key: of the state.
        geometry: kernel size, stride, padding (left, right, top, bottom), dilation, groups, mode.
        weight: (O, C / groups, kh, kw) in float32, or float64 for a float64 network.
        bias: (O,) alike; zeros where there is none.
        affine: per-channel (scale, shift), each (O,); or None.
        gated: the layer's operation: its own weights, gate, reference and (rows, columns) of
            outputs per block. None for a dense layer.
        activation: after everything else.
        cost: index of its row in :attr:`Plan.costs`, or None where it is not counted.
    """

    key: Key = field(kw_only=True)
    geometry: ConvGeometry
    weight: Tensor
    bias: Tensor
    affine: tuple[Tensor, Tensor] | None = None
    gated: GatedConvolution | None = None
    cost: int | None = None
    takes_activation = True

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        inputs: tuple[int, ...],
        output: int,
        key: Key,
        conv: Convolution,
        gated: GatedConvolution | None = None,
        cost: int | None = None,
    ) -> Conv:
        """One with the weights of a layer, in the precision of sums."""
        exact = accumulation_dtype(conv.weight.dtype)
        weight = conv.weight.detach().to(exact)
        bias = weight.new_zeros(weight.shape[0])
        if conv.bias is not None:
            bias = conv.bias.detach().to(exact)
        return cls(
            inputs,
            output,
            key=key,
            geometry=conv.geometry,
            weight=weight,
            bias=bias,
            gated=gated,
            cost=cost,
        )

    @classmethod
    def trace(cls, graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        x, weight = graph.value(a["input"]), a["weight"]
        require(graph.id_of(weight) is None and out.dim() == 4, "only 2-D, with constant weights")
        if a["transposed"]:
            return trace_transposed(graph, x, a, out)
        top, left = pair(a["padding"])
        geometry = ConvGeometry(
            (weight.shape[2], weight.shape[3]),
            pair(a["stride"]),
            (left, left, top, top),
            pair(a["dilation"]),
            a["groups"],
        )
        key, conv = graph.key_of(weight), Convolution(weight, a["bias"], geometry)
        return graph.add(out, lambda v: cls.of((x,), v, key, conv))

    @property
    def add(self) -> tuple[int, ...]:
        """Values added before the activation."""
        return self.inputs[1:]

    @property
    def gate(self) -> Gate | None:
        """The layer's gate."""
        return None if self.gated is None else self.gated.gate  # type: ignore[return-value]

    @property
    def spec(self) -> GateSpec | None:
        """What its gate compares; None where the gate must be asked through its own methods."""
        return None if self.gated is None else self.gated.spec

    @property
    def sees_response(self) -> bool:
        """Whether its gate needs ``w * x`` with the layer's own weights; any unknown gate may."""
        return self.gated is not None and (self.spec is None or self.spec.needs_response)

    def convolution(self, dtype: torch.dtype) -> Convolution:
        """What runs, for maps of this dtype; updates are computed in the accumulators'."""
        if self.reference == "previous":
            return Convolution(self.weight, self.bias, self.geometry)
        return Convolution(self.weight.to(dtype), self.bias.to(dtype), self.geometry)

    @property
    def reference(self) -> Reference:
        """``'hold'`` or ``'previous'``."""
        return "hold" if self.gated is None else self.gated.reference

    @property
    def block(self) -> tuple[int, int]:
        """(rows, columns) of outputs per decision; (1, 1) for a dense layer."""
        return (1, 1) if self.gated is None else self.gated.block

    @property
    def label(self) -> str:
        kernel = "x".join(map(str, self.geometry.kernel_size))
        parts = [f"conv {kernel}/{self.geometry.stride[0]}"]
        parts += [f"groups {self.geometry.groups}"] * (self.geometry.groups > 1)
        parts += ["affine"] * (self.affine is not None) + ["add"] * bool(self.add)
        return " + ".join(parts + [str(self.activation)] * bool(self.activation))

    # -- what it computes ------------------------------------------------------------------------

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        x = inputs[0]
        z = self.geometry.convolve(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return self.finish(z, inputs[1:])

    def finish(self, z: Tensor, adds: Sequence[Tensor]) -> Tensor:
        """What follows the convolution, activation apart: affine and additions; (S, O, H', W')."""
        if self.affine is not None:
            z = affine(z, self.affine, 1)
        for other in adds:
            z = z + other
        return z

    def block_sizes(self, size: tuple[int, int]) -> Tensor:
        """(Hb, Wb) float64: how many outputs of (H', W') lie in each block."""
        edges = []
        for extent, block in zip(size, self.block, strict=True):
            count = math.ceil(extent / block)
            rows = torch.full((count,), float(block), dtype=torch.float64, device="cpu")
            rows[-1] = extent - (count - 1) * block
            edges.append(rows)
        return edges[0][:, None] * edges[1]

    def macs(self, values: Sequence[Value]) -> int:
        out = values[self.output]
        return self.weight.numel() * out.height * out.width

    # -- what it can be joined with --------------------------------------------------------------

    def with_affine(self, scale: Tensor, shift: Tensor) -> Op | None:
        if self.add or self.activation:
            return None
        if self.sees_response:
            if self.affine is not None:
                first_scale, first_shift = self.affine
                scale, shift = first_scale * scale, first_shift * scale + shift
            return replace(self, affine=(scale, shift))
        weight = self.weight * scale[:, None, None, None]
        return replace(self, weight=weight, bias=self.bias * scale + shift)

    def with_addition(self, other: int) -> Op | None:
        # A value that the network computes after it would have to be waited for; the first gated
        # layer, which decides about cuts, must not.
        if self.add or self.activation or other > self.output:
            return None
        return replace(self, inputs=(*self.inputs, other))

    # -- how backends run it ---------------------------------------------------------------------

    def place(self, builder: NodeBuilder[Node]) -> Node:
        return builder.convolution(self)

    def lower(self, builder: NativeBuilder) -> None:
        g = self.geometry
        if g.padding_mode != "zeros":
            raise BackendError(
                f"layer {self.key}: the native engine pads with zeros, not {g.padding_mode}"
            )
        builder.convolution(
            self,
            self.weight,
            self.bias,
            stride=g.stride,
            padding=(g.padding[2], g.padding[0]),
            dilation=g.dilation,
            groups=g.groups,
            add=self.add,
            affine=self.affine,
        )

    @classmethod
    def examples(cls) -> dict[str, Example]:
        return {
            "3x3": Example(nn.Sequential(layer(nn.Conv2d, 3, 8, 3, padding=1))),
            "strided": Example(nn.Sequential(layer(nn.Conv2d, 3, 8, 3, stride=2, padding=1))),
            "grouped": Example(
                nn.Sequential(
                    layer(nn.Conv2d, 3, 8, 1), layer(nn.Conv2d, 8, 12, 3, dilation=2, groups=4)
                )
            ),
        }
