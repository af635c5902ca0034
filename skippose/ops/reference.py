"""Skip-Convolution, the plain formula: one loop over time, nothing clever.

This is the truth that every faster form is tested against. A convolution is written as a product
of its weights with columns, one column per output location p holding the receptive field R(p)::

    previous   z_t(p) = z_{t-1}(p) + g_t(p) · (w · d_t(p)),    d_t(p) = x_t|R(p) - x_{t-1}|R(p)
    hold       z_t(p) = g_t(p) · (w · x_t|R(p) + b) + (1 - g_t(p)) · z_{t-1}(p),
               d_t(p) = x_t|R(p) - x_τ|R(p),                   τ the last frame with g(p) = 1

``previous`` is equations 3 and 4 of Skip-Convolutions (Habibian et al., CVPR 2021), with the gate
at the output; ``hold`` is this project's: every output is an exact convolution of an input that is
less than a threshold old, so nothing drifts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skippose.ops.contract import GatedConvolution
from skippose.ops.geometry import accumulation_dtype


def skip_conv_loop(
    x: Tensor, layer: GatedConvolution, dense: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gated convolution of clips, frame after frame.

    Args:
        x: (B, T, C, H, W).
        layer: the convolution, whose bias enters once, with the first frame; its gate, of which
            ``on_columns`` is used; ``'hold'`` or ``'previous'``; and the block size.
        dense: (B, T) bool, frames to compute in full besides the first.

    Returns:
        z, (B, T, O, H', W'), and the gates, (B, T, 1, Hb, Wb) float.
    """
    batch, frames, _, height, width = x.shape
    conv, gate, geometry = layer.conv, layer.gate, layer.conv.geometry
    size = geometry.out_size(height, width)
    exact = accumulation_dtype(x.dtype)
    w = conv.weight.to(exact).unflatten(0, (geometry.groups, -1)).flatten(2)
    b = conv.start(x).flatten(1)

    def convolve(columns: Tensor) -> Tensor:  # (B, C, K, L) -> (B, O, L)
        grouped = columns.reshape(batch, geometry.groups, -1, columns.shape[-1])
        return torch.einsum("gok,bgkl->bgol", w, grouped).reshape(batch, -1, columns.shape[-1])

    zs, gates = [], []
    for t in range(frames):
        columns = geometry.columns(x[:, t].to(exact))
        response = convolve(columns)
        full = torch.full((batch,), t == 0, dtype=torch.bool, device=x.device)
        if dense is not None:
            full = full | dense[:, t].to(x.device)
        if t == 0:
            z, held, before, scale = response + b, columns, columns, None
        change = columns - held
        change_response = convolve(change)
        seen = (columns, response) if gate.source == "frame" else (change, change_response)
        score = layer.pool(gate.on_columns(*seen, conv).reshape(batch, 1, *size))
        changed = (columns != before).flatten(1, 2).any(1).reshape(batch, 1, *size)
        changed = layer.pool(changed.to(exact))
        opened = torch.ones_like(score) if full.all() else gate.decide(score, scale) * changed
        opened = torch.where(full[:, None, None, None], 1.0, opened)
        g = layer.expand(opened, size).reshape(batch, 1, -1)

        if layer.reference == "hold":
            z = g * (response + b) + (1 - g) * z
            held = torch.where(g[:, None] > 0.5, columns, held)
        else:
            z = torch.where(full[:, None, None], response + b, z + g * change_response)
            held = columns
        before = columns
        measured = gate.measure(x[:, t], response.reshape(batch, -1, *size))
        if measured is not None:
            scale = measured if scale is None else torch.where(full, measured, scale)
        zs.append(z.reshape(batch, -1, *size))
        gates.append(opened)
    return torch.stack(zs, 1).to(x.dtype), torch.stack(gates, 1)
