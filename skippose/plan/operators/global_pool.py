"""Means over whole maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from skippose.plan.examples import Body, Example
from skippose.plan.op import Arguments, GraphBuilder, NativeBuilder, Op, Value
from skippose.plan.registry import register, traces
from skippose.plan.tracing import require


@register()
@dataclass(frozen=True)
class GlobalPool(Op):
    """Mean over the whole map, to 1x1 or to a flat value."""

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        return inputs[0].mean((2, 3), keepdim=True)

    def lower(self, builder: NativeBuilder) -> None:
        x = builder.value(self.inputs[0])
        builder.element(self, "avg_pool", kh=x.height, kw=x.width, sh=1, sw=1, dh=1, dw=1)

    @classmethod
    def examples(cls) -> dict[str, Example]:
        return {
            "mean": Example(Body(lambda x: x.mean((2, 3), keepdim=True))),
            "adaptive": Example(Body(lambda x: F.adaptive_avg_pool2d(x, 1))),
        }


@traces("mean")
def trace_mean(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """A mean over rows and columns."""
    x = a["self"]
    dims = sorted(d % x.dim() for d in (a.get("dim") or range(x.dim())))
    require(
        x.dim() == 4 and dims == [2, 3], f"a mean over the dimensions {dims}, not rows and columns"
    )
    value = graph.value(x)
    graph.add(out, lambda v: GlobalPool((value,), v))


@traces("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def trace_adaptive(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """Adaptive pooling to one pixel."""
    require(tuple(out.shape[2:]) == (1, 1), "adaptive pooling to more than 1x1")
    value = graph.value(a["self"])
    graph.add(out, lambda v: GlobalPool((value,), v))
