"""Sums of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

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
from skippose.plan.operators.pointwise import trace_affine
from skippose.plan.registry import register, traces
from skippose.plan.tracing import require


@register()
@dataclass(frozen=True)
class FuseSum(Pixelwise):
    """``act(Σ up(input))``, from left to right.

    Attributes:
        factors: (rows, columns) by which each input is repeated (nearest), (1, 1) for as it is.
        activation: of the sum.
    """

    factors: tuple[tuple[int, int], ...]
    takes_activation = True

    @property
    def repeats(self) -> tuple[tuple[int, int], ...]:
        return self.factors

    @property
    def label(self) -> str:
        ups = ", ".join(f"x{rows}" for rows, _ in self.factors)
        return f"sum({ups})" + f" + {self.activation}" * bool(self.activation)

    def pixels(self, parts: Sequence[Tensor], channels: int) -> Tensor:
        total = parts[0] + parts[1]
        for part in parts[2:]:
            total += part
        return total

    def join(self, producer: Op, stage: Stage, values: Sequence[Value]) -> Op | None:
        i = self.inputs.index(producer.output)
        if stage == "terms":
            terms = producer.terms(values, first=i == 0)
            if terms is not None:
                inputs, factors = terms
                return replace(
                    self,
                    inputs=self.inputs[:i] + inputs + self.inputs[i + 1 :],
                    factors=self.factors[:i] + factors + self.factors[i + 1 :],
                )
        if stage == "addition" and not self.activation and len(self.inputs) == 2:
            other = self.inputs[1 - i]
            if set(self.factors) == {(1, 1)} and other != producer.output:
                joined = producer.with_addition(other)
                return None if joined is None else replace(joined, output=self.output)
        return None

    def terms(
        self, values: Sequence[Value], first: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]] | None:
        return (self.inputs, self.factors) if first and not self.activation else None

    def lower(self, builder: NativeBuilder) -> None:
        rows, columns = zip(*self.factors, strict=True)
        builder.element(self, "sum", factor_y=rows, factor_x=columns)

    @classmethod
    def examples(cls) -> dict[str, Example]:
        def upsampled(x: Tensor) -> Tensor:
            small = F.max_pool2d(x, 2)
            return F.avg_pool2d(x, 1) + F.interpolate(small, scale_factor=2) + x

        return {
            "two": Example(Body(lambda x: F.max_pool2d(x, 2) + F.avg_pool2d(x, 2))),
            "upsampled": Example(Body(upsampled)),
        }


@traces("add")
def trace_add(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """An addition of two maps, or of a map and a constant."""
    _trace(graph, a, out, 1)


@traces("sub")
def trace_sub(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """A difference of a map and a constant."""
    _trace(graph, a, out, -1)


def _trace(graph: GraphBuilder, a: Arguments, out: Tensor, sign: int) -> None:
    x, y = graph.id_of(a["self"]), graph.id_of(a["other"])
    factor: Any = sign * (1 if a["alpha"] is None else a["alpha"])
    if x is not None and y is not None:
        require(factor == 1, "a difference or multiple of two maps")
        require(a["self"].shape == a["other"].shape, "maps of different sizes")
        graph.add(out, lambda v: FuseSum((x, y), v, factors=((1, 1), (1, 1))))
    elif x is not None:
        trace_affine(graph, a["self"], 1.0, a["other"], factor, out)
    else:
        require(factor in (1, -1), "a multiple of a map")
        trace_affine(graph, a["other"], float(factor), a["self"], 1.0, out)
