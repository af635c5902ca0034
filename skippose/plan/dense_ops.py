"""The plan's operations on whole maps, as in the network: (S, C, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.plan.plan import (
    Activation,
    Concat,
    Conv,
    ConvTranspose,
    Flatten,
    FuseSum,
    GlobalPool,
    Linear,
    Mul,
    Op,
    Pointwise,
    Pool,
    Upsample,
    Value,
)


def activate(x: Tensor, act: Activation) -> Tensor:
    """The activation of ``x``, any shape; ``x`` may be overwritten."""
    if act.kind == "none":
        return x
    if act.kind == "relu":
        return x.relu_()
    if act.kind == "clamp":
        return x.clamp_(act.low, act.high)
    if act.kind == "leaky_relu":
        return F.leaky_relu_(x, act.low)
    if act.kind in ("sigmoid", "tanh"):
        return getattr(x, act.kind + "_")()
    return getattr(F, act.kind)(x, inplace=True)


def activate_into(x: Tensor, act: Activation, out: Tensor) -> None:
    """The activation of ``x`` into ``out``, which may be ``x``; otherwise that stays as it is."""
    if act.kind == "relu" and out is not x:
        torch.clamp_min(x, 0, out=out)
        return
    if out is not x:
        out.copy_(x)
    result = activate(out, act)
    if result is not out:
        out.copy_(result)


def apply(op: Op, inputs: Sequence[Tensor], out: Value) -> Tensor:
    """One operation on whole maps; convolutions as if they had no gate.

    Args:
        op: any operation of a plan.
        inputs: (S, C, H, W) each; flat values as (S, C, 1, 1).
        out: the value it makes.

    Returns:
        (S, C', H', W'), new memory.
    """
    return activate(_apply(op, inputs, out), getattr(op, "activation", Activation()))


def _apply(op: Op, inputs: Sequence[Tensor], out: Value) -> Tensor:
    x = inputs[0]
    if isinstance(op, Conv):
        z = op.geometry.convolve(x, op.weight.to(x.dtype), op.bias.to(x.dtype))
        return finish(z, op, inputs[1:])
    if isinstance(op, FuseSum):
        total = None
        for term, (rows, columns) in zip(inputs, op.factors, strict=True):
            if (rows, columns) != (1, 1):
                term = term.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
            total = term if total is None else total + term
        assert total is not None
        return total
    if isinstance(op, Pointwise):
        return affine(x, op.affine, 1) if op.affine is not None else x.clone()
    if isinstance(op, Mul):
        return x * inputs[1]
    if isinstance(op, Pool):
        return _pool(op, x)
    if isinstance(op, GlobalPool):
        return x.mean((2, 3), keepdim=True)
    if isinstance(op, Upsample):
        corners = op.align_corners if op.mode == "bilinear" else None
        if op.scales is None:
            return F.interpolate(x, (out.height, out.width), mode=op.mode, align_corners=corners)
        return F.interpolate(x, scale_factor=op.scales, mode=op.mode, align_corners=corners)
    if isinstance(op, Concat):
        return torch.cat(list(inputs), 1)
    if isinstance(op, Flatten):
        return x.flatten(1)[:, :, None, None].clone()
    if isinstance(op, Linear):
        y = F.linear(x.flatten(1), op.weight.to(x.dtype), op.bias.to(x.dtype))
        return y[:, :, None, None]
    assert isinstance(op, ConvTranspose)
    weight, bias = op.weight.to(x.dtype), op.bias.to(x.dtype)
    return F.conv_transpose2d(
        x, weight, bias, op.stride, op.padding, op.output_padding, op.groups, op.dilation
    )


def finish(z: Tensor, op: Conv, adds: Sequence[Tensor]) -> Tensor:
    """What follows a convolution, activation apart: affine and additions; (S, O, H', W')."""
    if op.affine is not None:
        z = affine(z, op.affine, 1)
    for other in adds:
        z = z + other
    return z


def affine(x: Tensor, constants: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """``scale · x + shift`` along the channels' dimension."""
    shape = [-1] + [1] * (x.dim() - 1 - dim % x.dim())
    scale, shift = (c.to(x.dtype).reshape(shape) for c in constants)
    return x * scale + shift


def _pool(op: Pool, x: Tensor) -> Tensor:
    g = op.geometry
    padding = (g.padding[2], g.padding[0])
    if op.kind == "max":
        return F.max_pool2d(x, g.kernel_size, g.stride, padding, g.dilation, op.ceil_mode)
    return F.avg_pool2d(
        x, g.kernel_size, g.stride, padding, op.ceil_mode, op.count_include_pad, op.divisor
    )


def as_output(x: Tensor, value: Value) -> Tensor:
    """(S, C, H, W) as the network returns it: flat values as (S, C)."""
    return x.flatten(1) if value.flat else x


def block_sizes(op: Conv, size: tuple[int, int]) -> Tensor:
    """(Hb, Wb) float64: how many outputs lie in each block."""
    edges = []
    for extent, block in zip(size, op.block, strict=True):
        count = math.ceil(extent / block)
        rows = torch.full((count,), float(block), dtype=torch.float64, device="cpu")
        rows[-1] = extent - (count - 1) * block
        edges.append(rows)
    return edges[0][:, None] * edges[1]
