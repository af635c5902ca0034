"""Linear layers, dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor, nn

from skippose.ops.geometry import accumulation_dtype
from skippose.plan.examples import Example, layer
from skippose.plan.op import Arguments, GraphBuilder, Key, NativeBuilder, Op, Value
from skippose.plan.registry import register, traces
from skippose.plan.tracing import require


@register()
@dataclass(frozen=True)
class Linear(Op):
    """``x Wᵀ + b`` on a flat value, dense. weight (O, F), bias (O,)."""

    key: Key = field(kw_only=True)
    weight: Tensor
    bias: Tensor
    takes_activation = True

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        x = inputs[0]
        y = F.linear(x.flatten(1), self.weight.to(x.dtype), self.bias.to(x.dtype))
        return y[:, :, None, None]

    def macs(self, values: Sequence[Value]) -> int:
        return self.weight.numel()

    def with_affine(self, scale: Tensor, shift: Tensor) -> Op | None:
        if self.activation:
            return None
        return replace(self, weight=self.weight * scale[:, None], bias=self.bias * scale + shift)

    def lower(self, builder: NativeBuilder) -> None:
        builder.convolution(self, self.weight[:, :, None, None], self.bias)

    @classmethod
    def examples(cls) -> dict[str, Example]:
        pooled = nn.Sequential(layer(nn.Conv2d, 3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return {
            "with bias": Example(nn.Sequential(*pooled, layer(nn.Linear, 8, 5))),
            "without": Example(nn.Sequential(*pooled, layer(nn.Linear, 8, 5, bias=False))),
        }


@traces("addmm")
def trace_addmm(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """A linear layer with a bias."""
    require((a.get("beta") in (None, 1)) and (a.get("alpha") in (None, 1)), "beta or alpha")
    _trace(graph, a["mat1"], a["mat2"], a["self"], out)


@traces("mm")
def trace_mm(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """One without."""
    _trace(graph, a["self"], a["mat2"], None, out)


def _trace(
    graph: GraphBuilder, x: Tensor, transposed: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    value = graph.value(x)
    constant = graph.id_of(transposed) is None and graph.id_of(bias) is None
    require(constant, "no constant weights")
    exact = accumulation_dtype(transposed.dtype)
    key = graph.key_of(transposed._base if transposed._base is not None else transposed)
    weight = transposed.detach().t().to(exact).contiguous()
    shift = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().to(exact)
    graph.add(out, lambda v: Linear((value,), v, key=key, weight=weight, bias=shift))
