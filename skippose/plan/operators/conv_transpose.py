"""Transposed convolutions, dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skippose.ops.geometry import accumulation_dtype
from skippose.plan.examples import Example, layer
from skippose.plan.op import (
    Arguments,
    GraphBuilder,
    Key,
    NativeBuilder,
    Op,
    Value,
)
from skippose.plan.registry import register
from skippose.plan.tracing import pair


@register()
@dataclass(frozen=True)
class ConvTranspose(Op):
    """A transposed convolution, dense; the arguments are those of ``F.conv_transpose2d``."""

    key: Key = field(kw_only=True)
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)
    takes_activation = True

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        x = inputs[0]
        return F.conv_transpose2d(
            x,
            self.weight.to(x.dtype),
            self.bias.to(x.dtype),
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def macs(self, values: Sequence[Value]) -> int:
        x = values[self.inputs[0]]
        return self.weight.numel() * x.height * x.width

    def with_affine(self, scale: Tensor, shift: Tensor) -> Op | None:
        if self.activation:
            return None
        grouped = self.weight.unflatten(0, (self.groups, -1))
        weight = (grouped * scale.reshape(self.groups, 1, -1, 1, 1)).flatten(0, 1)
        return replace(self, weight=weight, bias=self.bias * scale + shift)

    def lower(self, builder: NativeBuilder) -> None:
        """One convolution for each residue of the outputs' places by the stride."""
        out = builder.value(self.output)
        channels, per_group = self.weight.shape[:2]
        # (C, O/g, kh, kw) to (O, C/g, kh, kw).
        weight = self.weight.unflatten(0, (self.groups, channels // self.groups)).transpose(1, 2)
        weight = weight.reshape(
            self.groups * per_group, channels // self.groups, *self.weight.shape[2:]
        )
        for at_y, (rows, first_y, step_y) in enumerate(self._taps(0)):
            for at_x, (columns, first_x, step_x) in enumerate(self._taps(1)):
                if at_y >= out.height or at_x >= out.width:
                    continue
                if rows and columns:
                    part = weight[:, :, rows][:, :, :, columns]
                else:  # no input reaches these outputs
                    part = torch.zeros_like(weight[:, :, :1, :1])
                builder.convolution(
                    self,
                    part,
                    self.bias,
                    padding=(-first_y, -first_x),
                    dilation=(step_y, step_x),
                    groups=self.groups,
                    steps=self.stride,
                    at=(at_y, at_x),
                )

    def _taps(self, axis: int) -> list[tuple[list[int], int, int]]:
        """For each residue: kernel rows that reach it, the first one's offset, their distance.

        Output ``o`` reads input ``(o + padding - k · dilation) / stride`` where that is whole.
        """
        stride, padding, dilation = self.stride[axis], self.padding[axis], self.dilation[axis]
        found = []
        for residue in range(stride):
            reach = {}
            for k in range(self.weight.shape[2 + axis]):
                offset, rest = divmod(residue + padding - k * dilation, stride)
                if rest == 0:
                    reach[offset] = k
            offsets = sorted(reach)
            step = offsets[1] - offsets[0] if len(offsets) > 1 else 1
            found.append(([reach[o] for o in offsets], offsets[0] if offsets else 0, step))
        return found

    @classmethod
    def examples(cls) -> dict[str, Example]:
        def after(up: nn.Module) -> Example:
            return Example(
                nn.Sequential(layer(nn.Conv2d, 3, 8, 3, padding=1), up, layer(nn.Conv2d, 6, 4, 1))
            )

        return {
            "overlapping": after(layer(nn.ConvTranspose2d, 8, 6, 4, 2, 1)),
            "with holes": after(layer(nn.ConvTranspose2d, 8, 6, 2, 3, output_padding=1, groups=2)),
        }


def trace_transposed(graph: GraphBuilder, x: int, a: Arguments, out: Tensor) -> None:
    """Adds the transposed convolution of a value: ATen has one function for all convolutions."""
    weight, bias = a["weight"], a["bias"]
    key, exact = graph.key_of(weight), accumulation_dtype(weight.dtype)
    channels = weight.shape[1] * a["groups"]
    graph.add(
        out,
        lambda v: ConvTranspose(
            (x,),
            v,
            key=key,
            weight=weight.detach().to(exact),
            bias=weight.new_zeros(channels, dtype=exact) if bias is None else bias.to(exact),
            stride=pair(a["stride"]),
            padding=pair(a["padding"]),
            output_padding=pair(a["output_padding"]),
            groups=a["groups"],
            dilation=pair(a["dilation"]),
        ),
    )
