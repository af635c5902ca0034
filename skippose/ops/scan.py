"""The two scans over time that turn convolutions of all frames into gated outputs.

Written as autograd functions because a chain of T `where` or `add` would keep T copies of every
feature map alive for the backward pass: these keep the masks, and for gates that learn the
convolutions' outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skippose.ops.geometry import accumulation_dtype


def _select(y: Tensor, opened: Tensor, z_before: Tensor | None) -> Tensor:
    z = torch.empty_like(y)
    for t in range(y.shape[1]):
        last = z_before if t == 0 else z[:, t - 1]
        if last is None:
            z[:, 0] = y[:, 0]
        else:
            torch.where(opened[:, t], y[:, t], last, out=z[:, t])
    return z


class _HoldScan(torch.autograd.Function):
    """``z_t = g_t ⊙ y_t + (1 - g_t) ⊙ z_{t-1}``."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor, z_before: Tensor | None) -> Tensor:
        opened = gate > 0.5 if gate.is_floating_point() else gate
        z = _select(y, opened, z_before)
        learns = gate.is_floating_point() and gate.requires_grad
        # z itself may be overwritten by an in-place activation, so the backward pass makes it anew.
        ctx.save_for_backward(opened, *((y, z_before) if learns else (None, None)))
        ctx.gate_dtype = gate.dtype
        ctx.has_state = z_before is not None
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        opened, y, z_before = ctx.saved_tensors
        frames = grad_z.shape[1]
        grad_y = torch.empty_like(grad_z)
        grad_gate = None
        if y is not None:
            z = _select(y, opened, z_before)
            grad_gate = opened.new_zeros(opened.shape, dtype=ctx.gate_dtype)
        carried: Tensor | None = None  # gradient that reaches z_t from later frames
        for t in reversed(range(frames)):
            total = grad_z[:, t] if carried is None else grad_z[:, t] + carried
            here = opened[:, t] if t > 0 or ctx.has_state else torch.ones_like(opened[:, t])
            torch.mul(total, here, out=grad_y[:, t])
            if grad_gate is not None and y is not None:
                last = z_before if t == 0 else z[:, t - 1]
                if last is not None:
                    product = total * (y[:, t] - last)
                    grad_gate[:, t] = product.sum(1, keepdim=True, dtype=ctx.gate_dtype)
            carried = total - grad_y[:, t]
        return grad_y, grad_gate, carried if ctx.has_state else None


class _PreviousScan(torch.autograd.Function):
    """``z_t = k_t z_{t-1} + (1 - k_t) b + g_t ⊙ v_t`` with k_t = 0 at dense frames, else 1."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, gate: Tensor, dense: Tensor, bias: Tensor | None, before: Tensor | None
    ) -> Tensor:
        keep = (~dense).to(v.device, accumulation_dtype(v.dtype))[:, :, None, None, None]
        z = torch.empty_like(v, dtype=keep.dtype)
        start = torch.zeros((), dtype=z.dtype, device=v.device)
        if bias is not None:
            start = bias.to(z.dtype)[:, None, None]
        for t in range(v.shape[1]):
            torch.mul(v[:, t], gate[:, t], out=z[:, t])
            last = before if t == 0 else z[:, t - 1]
            if last is None or bool(dense[:, t].all()):
                z[:, t] += start
            elif bool(dense[:, t].any()):
                z[:, t] += torch.where(keep[:, t] > 0, last, start)
            else:
                z[:, t] += last
        learns = gate.is_floating_point() and gate.requires_grad
        ctx.save_for_backward(gate, keep, v if learns else None)
        ctx.v_dtype, ctx.has_bias, ctx.has_state = v.dtype, bias is not None, before is not None
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        gate, keep, v = ctx.saved_tensors
        grad_v = torch.empty_like(grad_z, dtype=ctx.v_dtype)
        grad_gate = None if v is None else torch.zeros_like(gate)
        grad_bias = grad_z.new_zeros(grad_z.shape[2]) if ctx.has_bias else None
        carried: Tensor | None = None
        for t in reversed(range(grad_z.shape[1])):
            total = grad_z[:, t] if carried is None else grad_z[:, t] + carried
            grad_v[:, t] = total * gate[:, t]
            if grad_gate is not None and v is not None:
                grad_gate[:, t] = (total * v[:, t]).sum(1, keepdim=True)
            if grad_bias is not None:
                grad_bias += (total * (1 - keep[:, t])).sum((0, 2, 3))
            carried = total * keep[:, t]
        return grad_v, grad_gate, None, grad_bias, carried if ctx.has_state else None


def hold_scan(y: Tensor, gate: Tensor, z_before: Tensor | None = None) -> Tensor:
    """Select: each output is the newest that its gate let through.

    Args:
        y: (B, T, O, H', W'), convolutions of all frames, bias included.
        gate: (B, T, 1, H', W'), bool, or float 0/1 with a straight-through gradient.
        z_before: (B, O, H', W'), the output before the first frame; without it the first frame is
            taken in full.

    Returns:
        (B, T, O, H', W').
    """
    return _HoldScan.apply(y, gate, z_before)


def previous_scan(
    v: Tensor,
    gate: Tensor,
    dense: Tensor,
    bias: Tensor | None = None,
    z_before: Tensor | None = None,
) -> Tensor:
    """Accumulate gated updates, in float32 or better.

    Args:
        v: (B, T, O, H', W'), convolutions without bias: of the residual, of the frame itself where
            ``dense``.
        gate: (B, T, 1, H', W'), 1 where ``dense``.
        dense: (B, T) bool, on the CPU: frames that start anew from the bias.
        bias: (O,) or None.
        z_before: (B, O, H', W') or None, then the first frame must be dense.

    Returns:
        (B, T, O, H', W') in the accumulators' dtype.
    """
    return _PreviousScan.apply(v, gate, dense, bias, z_before)
