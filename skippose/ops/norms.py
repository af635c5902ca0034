"""Norms of a change over receptive fields, in float32 or better."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.ops.geometry import ConvGeometry, accumulation_dtype, no_grad
from skippose.ops.masks import dilate


@no_grad()
def channel_power(change: Tensor, p: float) -> Tensor:
    """Sum over channels of ``|change|^p`` (their maximum for p = inf), channels kept as one.

    Nothing is differentiated: norm gates have no gradient.

    Args:
        change: (N, C, H, W), any floating dtype.
        p: 1, 2 or ``math.inf``.

    Returns:
        (N, 1, H, W) in float32, or float64 for float64.
    """
    dtype = accumulation_dtype(change.dtype)
    if p == 1 and change.is_cpu:
        # Image by image through one small buffer: bound by memory, and several times faster so.
        power = torch.empty_like(change[:, :1], dtype=dtype)
        buffer = torch.empty_like(change[0])
        for image, out in zip(change, power, strict=True):
            torch.sum(torch.abs(image, out=buffer), 0, keepdim=True, dtype=dtype, out=out)
        return power
    if p == 1:
        return change.abs().sum(1, keepdim=True, dtype=dtype)
    if p == 2:
        return change.to(dtype).square().sum(1, keepdim=True)
    return change.abs().amax(1, keepdim=True).to(dtype)


def pair_power(a: Tensor, b: Tensor, p: float, buffer: Tensor) -> Tensor:
    """:func:`channel_power` of ``a - b`` without allocating the difference.

    ``buffer`` has the shape of ``a`` and is overwritten. Nothing is differentiated.
    """
    torch.sub(a, b, out=buffer)
    if p == 1:
        return buffer.abs_().sum(1, keepdim=True, dtype=accumulation_dtype(a.dtype))
    return channel_power(buffer, p)


def window_power(power: Tensor, geometry: ConvGeometry, p: float) -> Tensor:
    """Channel powers collected over each receptive field: (N, 1, H, W) to (N, 1, H', W')."""
    if math.isinf(p):
        return dilate(power, geometry)
    kernel, stride = geometry.kernel_size, geometry.stride
    left, right, top, bottom = geometry.padding
    zeros = geometry.padding_mode == "zeros" and (left, top) == (right, bottom)
    if geometry.dilation == (1, 1) and zeros and 2 * top <= kernel[0] and 2 * left <= kernel[1]:
        return F.avg_pool2d(power, kernel, stride, (top, left), divisor_override=1)
    padded = geometry.pad(power)
    if geometry.dilation == (1, 1):
        return F.avg_pool2d(padded, kernel, stride, divisor_override=1)
    ones = power.new_ones(1, 1, *kernel)
    return F.conv2d(padded, ones, None, stride, 0, geometry.dilation)


def finish_norm(power: Tensor, p: float, count: int, normalize: bool) -> Tensor:
    """From collected powers to the norm.

    ``normalize``: mean absolute value (p = 1), root mean square (p = 2); otherwise the paper's raw
    sums. The maximum (p = inf) is the same in both.

    Args:
        power: collected powers.
        p: 1, 2 or inf.
        count: N, the number of elements that were collected.
        normalize: divide by N.
    """
    if math.isinf(p):
        return power
    if normalize:
        power = power / count
    return power.sqrt() if p == 2 else power
