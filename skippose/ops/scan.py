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
    last = z_before
    for y_t, opened_t, z_t in zip(y.unbind(1), opened.unbind(1), z.unbind(1), strict=True):
        if last is None:
            z_t.copy_(y_t)
        else:
            torch.where(opened_t, y_t, last, out=z_t)
        last = z_t
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
        grads, into, masks = grad_z.unbind(1), grad_y.unbind(1), opened.unbind(1)
        grad_gate = None
        if y is not None:
            z = _select(y, opened, z_before)
            grad_gate = opened.new_zeros(opened.shape, dtype=ctx.gate_dtype)
        buffer = torch.empty_like(grads[0])  # one, for fresh memory costs more than arithmetic
        carried: Tensor | None = None  # gradient that reaches z_t from later frames
        for t in reversed(range(frames)):
            total = grads[t] if carried is None else carried.add_(grads[t])
            if t == 0 and not ctx.has_state:
                into[0].copy_(total)
                break
            torch.mul(total, masks[t], out=into[t])
            if grad_gate is not None and y is not None:
                last = z_before if t == 0 else z[:, t - 1]
                torch.sub(y[:, t], last, out=buffer).mul_(total)
                torch.sum(buffer, 1, keepdim=True, dtype=ctx.gate_dtype, out=grad_gate[:, t])
            carried = total - into[t] if carried is None else carried.sub_(into[t])
        return grad_y, grad_gate, carried if ctx.has_state else None


class _Dense:
    """Which slots begin anew at each frame, asked for without touching tensors frame by frame."""

    def __init__(self, dense: Tensor, has_state: bool) -> None:
        self._slots = dense
        self._all = dense.all(0).tolist()
        self._any = dense.any(0).tolist()
        if not has_state and not self._all[0]:
            raise ValueError("without a state the first frame must be dense")

    def all(self, t: int) -> bool:
        """Whether every slot does."""
        return self._all[t]

    def slots(self, t: int, device: torch.device) -> Tensor | None:
        """(B, 1, 1, 1) bool, or None if none does."""
        return self._slots[:, t, None, None, None].to(device) if self._any[t] else None

    def kept(self, x: Tensor, t: int) -> Tensor:
        """x, (B, ...), with zeros where a slot begins anew."""
        slots = self.slots(t, x.device)
        return x if slots is None else x.masked_fill(slots, 0)


class _Residual(torch.autograd.Function):
    """``x_t - x_{t-1}``, or x_t itself at dense frames."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dense: Tensor, before: Tensor | None) -> Tensor:
        ctx.dense, ctx.has_state = _Dense(dense, before is not None), before is not None
        changes = torch.empty_like(x)
        last = before
        for t, (x_t, change) in enumerate(zip(x.unbind(1), changes.unbind(1), strict=True)):
            if last is None or ctx.dense.all(t):
                change.copy_(x_t)
            else:
                torch.sub(x_t, ctx.dense.kept(last, t), out=change)
            last = x_t
        return changes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = torch.empty_like(grad)
        grads, into = grad.unbind(1), grad_x.unbind(1)
        for t in range(len(grads)):
            if t + 1 == len(grads) or ctx.dense.all(t + 1):
                into[t].copy_(grads[t])
            else:
                torch.sub(grads[t], ctx.dense.kept(grads[t + 1], t + 1), out=into[t])
        return grad_x, None, -ctx.dense.kept(grads[0], 0) if ctx.has_state else None


class _PreviousScan(torch.autograd.Function):
    """``z_t = z_{t-1} + g_t ⊙ v_t``, with b in place of z_{t-1} at dense frames."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, gate: Tensor, dense: Tensor, bias: Tensor | None, before: Tensor | None
    ) -> Tensor:
        exact = accumulation_dtype(v.dtype)
        ctx.dense, ctx.has_state = _Dense(dense, before is not None), before is not None
        z = torch.empty_like(v, dtype=exact)
        start = v.new_zeros(1, 1, 1, 1, dtype=exact)
        if bias is not None:
            start = bias.to(exact)[None, :, None, None]
        frames = zip(v.unbind(1), gate.to(exact).unbind(1), z.unbind(1), strict=True)
        last = before
        for t, (v_t, g_t, z_t) in enumerate(frames):
            slots = ctx.dense.slots(t, v.device)
            if last is None or ctx.dense.all(t):
                last = start
            elif slots is not None:
                last = torch.where(slots, start, last)
            torch.addcmul(last, v_t.to(exact), g_t, out=z_t)
            last = z_t
        learns = gate.is_floating_point() and gate.requires_grad
        ctx.save_for_backward(gate, v if learns else None)
        ctx.v_dtype, ctx.has_bias = v.dtype, bias is not None
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        gate, v = ctx.saved_tensors
        dense: _Dense = ctx.dense
        grad_v = torch.empty_like(grad_z, dtype=ctx.v_dtype)
        grads, into, opened = grad_z.unbind(1), grad_v.unbind(1), gate.to(grad_z.dtype).unbind(1)
        grad_gate = None if v is None else torch.zeros_like(gate)
        grad_bias = grad_z.new_zeros(grad_z.shape[2]) if ctx.has_bias else None
        buffer = torch.empty_like(grads[0])
        own = False  # whether `carried` is nobody else's memory
        carried: Tensor | None = None  # gradient that reaches z_t from later frames
        for t in reversed(range(len(grads))):
            if carried is None:
                total, own = grads[t], False
            elif own:
                total = carried.add_(grads[t])
            else:
                total, own = grads[t] + carried, True
            if into[t].dtype == total.dtype:
                torch.mul(total, opened[t], out=into[t])
            else:
                into[t].copy_(total * opened[t])
            if grad_gate is not None and v is not None:
                torch.mul(total, v[:, t], out=buffer)
                torch.sum(buffer, 1, keepdim=True, out=grad_gate[:, t])
            slots = dense.slots(t, total.device)
            if grad_bias is not None and slots is not None:
                grad_bias += (total * slots).sum((0, 2, 3))
            carried = None if dense.all(t) else dense.kept(total, t)
        if ctx.has_state and carried is None:
            carried = torch.zeros_like(grad_z[:, 0])
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
    if z_before is not None:  # a chunk before this one may have run under autocast, or not
        z_before = z_before.to(y.dtype)
    return _HoldScan.apply(y, gate, z_before)


def residual(x: Tensor, dense: Tensor, before: Tensor | None = None) -> Tensor:
    """What ``previous`` convolves: changes since the frame before, and dense frames whole.

    Args:
        x: (B, T, C, H, W).
        dense: (B, T) bool, on the CPU.
        before: (B, C, H, W), the frame before the first; without it the first is taken whole.

    Returns:
        (B, T, C, H, W).
    """
    return _Residual.apply(x, dense, before)


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
