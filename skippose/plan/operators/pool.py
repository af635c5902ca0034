"""Maxima and means over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from skippose.ops import ConvGeometry
from skippose.plan.examples import Body, Example
from skippose.plan.op import Arguments, GraphBuilder, NativeBuilder, Op, Value
from skippose.plan.registry import register, traces
from skippose.plan.tracing import pair


@register()
@dataclass(frozen=True)
class Pool(Op):
    """Maximum or mean over windows.

    Attributes:
        kind: ``'max'`` or ``'avg'``.
        geometry: windows as those of a convolution; padding symmetric. Maxima ignore padding.
        ceil_mode: windows may begin within the padding's far side.
        count_include_pad: means divide by the whole window.
        divisor: what means divide by instead, or None.
    """

    kind: Literal["max", "avg"]
    geometry: ConvGeometry
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    @property
    def label(self) -> str:
        kernel = "x".join(map(str, self.geometry.kernel_size))
        return f"{self.kind} pool {kernel}/{self.geometry.stride[0]}"

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        x, g, ceil = inputs[0], self.geometry, self.ceil_mode
        padding = (g.padding[2], g.padding[0])
        if self.kind == "max":
            return F.max_pool2d(x, g.kernel_size, g.stride, padding, g.dilation, ceil)
        return F.avg_pool2d(
            x, g.kernel_size, g.stride, padding, ceil, self.count_include_pad, self.divisor
        )

    def lower(self, builder: NativeBuilder) -> None:
        g = self.geometry
        builder.element(
            self,
            f"{self.kind}_pool",
            kh=g.kernel_size[0],
            kw=g.kernel_size[1],
            sh=g.stride[0],
            sw=g.stride[1],
            top=g.padding[2],
            left=g.padding[0],
            dh=g.dilation[0],
            dw=g.dilation[1],
            count_padding=self.count_include_pad,
            divisor=self.divisor or 0,
        )

    @classmethod
    def examples(cls) -> dict[str, Example]:
        return {
            "maximum": Example(Body(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True))),
            "mean": Example(Body(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))),
            "sum": Example(Body(lambda x: F.avg_pool2d(x, (1, 2), divisor_override=1))),
        }


@traces("max_pool2d_with_indices", "max_pool2d")
def trace_max(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """Maxima."""
    _trace(graph, a, out, "max")


@traces("avg_pool2d")
def trace_mean(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """Means."""
    _trace(graph, a, out, "avg")


def _trace(graph: GraphBuilder, a: Arguments, out: Tensor, kind: Literal["max", "avg"]) -> None:
    kernel = pair(a["kernel_size"])
    top, left = pair(a["padding"])
    stride = pair(a["stride"]) if a["stride"] else kernel
    geometry = ConvGeometry(kernel, stride, (left, left, top, top), pair(a.get("dilation") or 1))
    x = graph.value(a["self"])
    graph.add(
        out,
        lambda v: Pool(
            (x,),
            v,
            kind=kind,
            geometry=geometry,
            ceil_mode=bool(a["ceil_mode"]),
            count_include_pad=bool(a.get("count_include_pad", True)),
            divisor=a.get("divisor_override"),
        ),
    )
