"""Maps as features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from skippose.plan.examples import Example, layer
from skippose.plan.op import Arguments, GraphBuilder, NativeBuilder, Op, Value
from skippose.plan.registry import register
from skippose.plan.tracing import require


@register("view", "_unsafe_view")
@dataclass(frozen=True)
class Flatten(Op):
    """(S, C, H, W) to (S, C·H·W), channels outermost as in the network."""

    @classmethod
    def trace(cls, graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        x = a["self"]
        if x.shape == out.shape:
            return graph.same(x, out)
        require(
            out.dim() == 2 and out.shape[0] == 1,
            f"a view of {tuple(x.shape)} as {tuple(out.shape)}, which is no flatten",
        )
        value = graph.value(x)
        return graph.add(out, lambda v: cls((value,), v))

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        return inputs[0].flatten(1)[:, :, None, None].clone()

    def lower(self, builder: NativeBuilder) -> None:
        builder.element(self, "flatten")

    @classmethod
    def examples(cls) -> dict[str, Example]:
        class Features(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.linear = (
                    layer(nn.Conv2d, 3, 4, 3, padding=1),
                    layer(nn.Linear, 4 * 8 * 7, 6),
                )

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(F.max_pool2d(self.conv(x), 4).flatten(1))

        return {"features": Example(Features())}
