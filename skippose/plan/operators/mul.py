"""Products of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from skippose.plan.examples import Body, Example
from skippose.plan.op import Arguments, GraphBuilder, NativeBuilder, Pixelwise
from skippose.plan.operators.pointwise import trace_affine
from skippose.plan.registry import register
from skippose.plan.tracing import require


@register("mul")
@dataclass(frozen=True)
class Mul(Pixelwise):
    """``act(a · b)``; either may be a 1x1 map, which is spread over the other."""

    takes_activation = True

    @classmethod
    def trace(cls, graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        x, y = graph.id_of(a["self"]), graph.id_of(a["other"])
        if x is None or y is None:
            value, constant = (a["self"], a["other"]) if y is None else (a["other"], a["self"])
            return trace_affine(graph, value, constant, 0.0, 1.0, out)
        for tensor in (a["self"], a["other"]):
            whole = tensor.shape == out.shape
            require(
                whole or (tensor.shape[:2] == out.shape[:2] and tensor[0, 0].numel() == 1),
                f"maps of shapes {tuple(a['self'].shape)} and {tuple(a['other'].shape)}",
            )
        return graph.add(out, lambda v: cls((x, y), v))

    def pixels(self, parts: Sequence[Tensor], channels: int) -> Tensor:
        return parts[0] * parts[1]

    def lower(self, builder: NativeBuilder) -> None:
        builder.element(self, "mul")

    @classmethod
    def examples(cls) -> dict[str, Example]:
        def attention(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, 2) * x.mean((2, 3), keepdim=True).sigmoid()

        return {
            "two": Example(Body(lambda x: (F.max_pool2d(x, 2) * F.avg_pool2d(x, 2)).relu())),
            "spread": Example(Body(attention)),
        }
