"""Convolution to one channel on a CPU, as a matrix product: what a learned gate looks with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skippose.ops.geometry import ConvGeometry


def convolve_to_one(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``weight * x``: (N, C, H, W) and (1, C, kh, kw) to (N, 1, H', W').

    Libraries of convolutions compute output channels by the vector, 8 or 16 at once, so that a
    single one costs about a third of a convolution to 32. On a CPU this is a product of the
    kernel's taps with all pixels, (K, C) by (C, H·W), whose K rows are then shifted and added:
    the same products, each once, several times faster.
    """
    if geometry.padding_mode != "zeros" or not _is_symmetric(geometry):
        x, geometry = geometry.pad(x), replace(geometry, padding=(0, 0, 0, 0))
    # The K rows are as large as K channels of x: no gain for a network's first layer.
    if x.is_cpu and math.prod(geometry.kernel_size) <= x.shape[1]:
        return _ByTaps.apply(x, weight, geometry)
    return geometry.ungrouped().convolve(x, weight)


def _is_symmetric(geometry: ConvGeometry) -> bool:
    left, right, top, bottom = geometry.padding
    return left == right and top == bottom


class _ByTaps(torch.autograd.Function):
    """Zero padding, the same on both sides."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        height, width = x.shape[-2:]
        taps = weight[0].flatten(1).t().expand(len(x), -1, -1)
        rows = torch.bmm(taps, x.flatten(2)).unflatten(2, (height, width))
        if rows.shape[1] == 1 and geometry.stride == (1, 1) and not any(geometry.padding):
            return rows
        out = x.new_zeros(len(x), *geometry.out_size(height, width))
        for tap, (into, source) in enumerate(_places(geometry, height, width)):
            out[(..., *into)] += rows[(slice(None), tap, *source)]
        return out[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        count, channels, height, width = x.shape
        taps = weight[0].flatten(1).t()
        rows = x.new_zeros(count, len(taps), height, width)
        for tap, (into, source) in enumerate(_places(ctx.geometry, height, width)):
            rows[(slice(None), tap, *source)] = grad[(slice(None), 0, *into)]
        rows = rows.flatten(2)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.bmm(taps.t().expand(count, -1, -1), rows).view_as(x)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.bmm(x.flatten(2), rows.transpose(1, 2)).sum(0).view_as(weight)
        return grad_x, grad_weight, None


def _places(
    geometry: ConvGeometry, height: int, width: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """For each tap of the kernel: the outputs it reaches, and the inputs it meets there."""
    size = geometry.out_size(height, width)
    before = (geometry.padding[2], geometry.padding[0])
    axes = []
    for i, length in enumerate((height, width)):
        step, pairs = geometry.stride[i], []
        for tap in range(geometry.kernel_size[i]):
            offset = tap * geometry.dilation[i] - before[i]  # input = step * output + offset
            first = max(0, -(offset // step))
            last = max(first, min(size[i], (length - 1 - offset) // step + 1))
            start = step * first + offset
            stop = start + step * (last - first - 1) + 1 if last > first else start
            pairs.append((slice(first, last), slice(start, stop, step)))
        axes.append(pairs)
    for rows in axes[0]:
        for columns in axes[1]:
            yield (rows[0], columns[0]), (rows[1], columns[1])
