"""Concatenation of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.plan.examples import Body, Example
from skippose.plan.op import Arguments, GraphBuilder, NativeBuilder, Pixelwise
from skippose.plan.registry import register
from skippose.plan.tracing import require


@register("cat")
@dataclass(frozen=True)
class Concat(Pixelwise):
    """Channels one after the other."""

    @classmethod
    def trace(cls, graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        require((a["dim"] or 0) % out.dim() == 1, f"concatenation along dimension {a['dim']}")
        inputs = tuple(graph.value(t) for t in a["tensors"])
        graph.add(out, lambda v: cls(inputs, v))

    def pixels(self, parts: Sequence[Tensor], channels: int) -> Tensor:
        return torch.cat(list(parts), channels)

    def lower(self, builder: NativeBuilder) -> None:
        builder.element(self, "concat")

    @classmethod
    def examples(cls) -> dict[str, Example]:
        def three(x: Tensor) -> Tensor:
            return torch.cat([x, F.max_pool2d(x, 3, 1, 1), x.relu()], 1)

        return {"three": Example(Body(three, channels=24))}
