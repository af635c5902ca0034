"""Resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.plan.examples import Body, Example
from skippose.plan.op import Arguments, GraphBuilder, NativeBuilder, Op, Value
from skippose.plan.registry import register, traces


@register()
@dataclass(frozen=True)
class Upsample(Op):
    """``F.interpolate`` to the output's size.

    Attributes:
        mode: ``'nearest'`` or ``'bilinear'``.
        align_corners: of bilinear.
        scales: (rows, columns) that torch computes places with, or None: the ratio of the sizes.
    """

    mode: Literal["nearest", "bilinear"]
    align_corners: bool = False
    scales: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        return f"upsample {self.mode}"

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        corners = self.align_corners if self.mode == "bilinear" else None
        if self.scales is None:
            return F.interpolate(inputs[0], out.size, mode=self.mode, align_corners=corners)
        return F.interpolate(
            inputs[0], scale_factor=self.scales, mode=self.mode, align_corners=corners
        )

    def terms(
        self, values: Sequence[Value], first: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]] | None:
        """Its input repeated, where it is nearest by whole numbers."""
        source, target = values[self.inputs[0]], values[self.output]
        rows, columns = target.height // source.height, target.width // source.width
        exact = (source.height * rows, source.width * columns) == target.size
        scales = self.scales or (rows, columns)
        if (
            self.mode != "nearest"
            or not exact
            or not all(math.isclose(a, b) for a, b in zip(scales, (rows, columns), strict=True))
        ):
            return None
        return self.inputs, ((rows, columns),)

    def lower(self, builder: NativeBuilder) -> None:
        x, out = builder.value(self.inputs[0]), builder.value(self.output)
        scales, fields = self.scales or (None, None), {}
        for i, axis in enumerate("yx"):
            first, second, share = self._places(x.size[i], out.size[i], scales[i])
            fields[f"first_{axis}"], fields[f"second_{axis}"] = first, second
            fields[f"share_{axis}"] = share
        builder.element(self, "resize", **fields)

    def _places(self, size: int, to: int, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Two places that each output reads along one axis, and the second one's share."""
        at = torch.arange(to, dtype=torch.float32, device="cpu")
        ratio = size / to if scale is None else 1 / scale
        if self.mode == "nearest":
            first = (at * ratio).long().clamp_max(size - 1)
            return first, first, torch.zeros_like(at)
        if self.align_corners:
            place = at * ((size - 1) / (to - 1) if to > 1 else 0.0)
        else:
            place = ((at + 0.5) * ratio - 0.5).clamp_min(0)
        first = place.long().clamp_max(size - 1)
        return first, (first + 1).clamp_max(size - 1), place - first

    @classmethod
    def examples(cls) -> dict[str, Example]:
        def bilinear(corners: bool) -> Example:
            sizes: dict[str, Any] = dict(size=(41, 33), mode="bilinear", align_corners=corners)
            return Example(Body(lambda x: F.interpolate(x, **sizes)))

        return {
            "nearest": Example(Body(lambda x: F.interpolate(x, size=(41, 33)))),
            "by a factor": Example(Body(lambda x: F.interpolate(x, scale_factor=1.7))),
            "bilinear": bilinear(False),
            "corners aligned": bilinear(True),
        }


@traces("upsample_nearest2d")
def trace_nearest(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """The nearest pixel."""
    _trace(graph, a, out, "nearest")


@traces("upsample_bilinear2d")
def trace_bilinear(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """Between four pixels."""
    _trace(graph, a, out, "bilinear")


def _trace(
    graph: GraphBuilder, a: Arguments, out: Tensor, mode: Literal["nearest", "bilinear"]
) -> None:
    scales: Any = (a.get("scales_h"), a.get("scales_w"))
    if a.get("scale_factors"):
        scales = tuple(a["scale_factors"])
    x = graph.value(a["input"] if "input" in a else a["self"])
    graph.add(
        out,
        lambda v: Upsample(
            (x,),
            v,
            mode=mode,
            align_corners=bool(a.get("align_corners")),
            scales=None if None in scales else scales,
        ),
    )
