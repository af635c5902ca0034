"""Per-channel scales and shifts, and activations that nothing takes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.ops.geometry import accumulation_dtype
from skippose.plan.examples import Body, Example
from skippose.plan.op import (
    Arguments,
    GraphBuilder,
    NativeBuilder,
    Op,
    Pixelwise,
    Stage,
    Value,
)
from skippose.plan.registry import register, traces
from skippose.plan.tracing import require


def affine(x: Tensor, constants: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """``scale · x + shift`` along the channels' dimension."""
    shape = [-1] + [1] * (x.dim() - 1 - dim % x.dim())
    scale, shift = (c.to(x.dtype).reshape(shape) for c in constants)
    return x * scale + shift


@register()
@dataclass(frozen=True)
class Pointwise(Pixelwise):
    """``act(scale · x + shift)``, per channel; ``affine`` is (scale, shift), each (C,), or None."""

    affine: tuple[Tensor, Tensor] | None = None
    takes_activation = True

    @property
    def label(self) -> str:
        return " + ".join(["affine"] * (self.affine is not None) + [str(self.activation)])

    def pixels(self, parts: Sequence[Tensor], channels: int) -> Tensor:
        x = parts[0]
        return x.clone() if self.affine is None else affine(x, self.affine, channels)

    def join(self, producer: Op, stage: Stage, values: Sequence[Value]) -> Op | None:
        joined = None
        if stage == "affine" and self.affine is not None and not self.activation:
            joined = producer.with_affine(*self.affine)
        if stage == "activation" and self.affine is None and self.activation:
            joined = producer.with_activation(self.activation)
        return None if joined is None else replace(joined, output=self.output)

    def with_affine(self, scale: Tensor, shift: Tensor) -> Op | None:
        if self.affine is None or self.activation:
            return None
        first_scale, first_shift = self.affine
        return replace(self, affine=(first_scale * scale, first_shift * scale + shift))

    def lower(self, builder: NativeBuilder) -> None:
        scale, shift = self.affine or (None, None)
        builder.element(self, "sum", scale=scale, shift=shift)

    @classmethod
    def examples(cls) -> dict[str, Example]:
        # After a pool, which takes in neither.
        return {
            "affine": Example(Body(lambda x: F.max_pool2d(x, 2) * 2 - 1)),
            "activation": Example(Body(lambda x: F.max_pool2d(x, 2).relu())),
            "both": Example(Body(lambda x: -(F.max_pool2d(x, 2) / 4).tanh())),
        }


@traces(
    "batch_norm",
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
)
def trace_batch_norm(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """Batch norm in evaluation mode."""
    training = a.get("training", a.get("train", False))
    require(not training, "batch norm in training mode")
    mean, var = (a.get(k) for k in ("running_mean", "running_var"))
    require(mean is not None and var is not None, "batch norm without running statistics")
    assert mean is not None and var is not None
    exact = accumulation_dtype(var.dtype)
    scale = (var.to(exact) + a.get("eps", a.get("epsilon"))).rsqrt()
    if a["weight"] is not None:
        scale = scale * a["weight"].to(exact)
    shift = -mean.to(exact) * scale
    if a["bias"] is not None:
        shift = shift + a["bias"].to(exact)
    x = graph.value(a["input"])
    graph.add(out, lambda v: Pointwise((x,), v, affine=(scale, shift)))


@traces("div")
def trace_div(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """A division by a constant."""
    require(graph.id_of(a["other"]) is None, "a division by a map")
    other = a["other"]
    inverse = (
        1 / other.to(accumulation_dtype(other.dtype)) if isinstance(other, Tensor) else 1 / other
    )
    trace_affine(graph, a["self"], inverse, 0.0, 1.0, out)


@traces("neg")
def trace_neg(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """A change of sign."""
    trace_affine(graph, a["self"], -1.0, 0.0, 1.0, out)


def trace_affine(
    graph: GraphBuilder, x: Tensor, scale: Any, shift: Any, factor: float, out: Tensor
) -> None:
    """``scale · x + factor · shift`` with numbers or per-channel constants."""
    require(x.shape == out.shape, "a constant that is larger than the map")
    channels, exact = x.shape[1], accumulation_dtype(x.dtype)

    def per_channel(constant: Any) -> Tensor:
        if not isinstance(constant, Tensor):
            return torch.full((channels,), float(constant), dtype=exact, device=x.device)
        shape = [1] * (x.dim() - constant.dim()) + list(constant.shape)
        require(
            constant.numel() == 1 or (shape[1] == channels == constant.numel()),
            f"a constant of shape {tuple(constant.shape)}, which is not one per channel",
        )
        return constant.detach().to(exact).reshape(-1).expand(channels).clone()

    a, b = per_channel(scale), per_channel(shift) * factor
    if bool((a == 1).all()) and bool((b == 0).all()):
        graph.same(x, out)
    else:
        value = graph.value(x)
        graph.add(out, lambda v: Pointwise((value,), v, affine=(a, b)))
