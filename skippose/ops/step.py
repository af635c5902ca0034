"""Skip-Convolution one frame at a time, with explicit state: what a stream runs."""

from __future__ import annotations

import torch
from torch import Tensor

from skippose.ops.contract import GatedConvolution, SkipResult, SkipState, kept
from skippose.ops.geometry import accumulation_dtype, autocasts
from skippose.ops.masks import changed_outputs


def skip_conv_step(
    x: Tensor,
    layer: GatedConvolution,
    state: SkipState | None = None,
    dense: Tensor | None = None,
    cut: float | None = None,
) -> SkipResult:
    """Gated convolution of one frame; the equations are in :mod:`skippose.ops.reference`.

    The given state is never written to: whoever keeps it decides when the new one takes its place.

    Args:
        x: (S, C, H, W), one frame for each of S slots.
        layer: the convolution, its gate and what that refers to.
        state: what the frame before returned; None makes every slot dense.
        dense: (S,) bool on the CPU, slots to compute in full.
        cut: a density above which a slot is computed in full after all, as if it began here.
    """
    conv, gate, slots = layer.conv, layer.gate, x.shape[0]
    size = layer.out_size(x)
    exact = accumulation_dtype(x.dtype)
    if dense is None or state is None:
        dense = torch.full((slots,), state is None)
    full = dense.to(x.device)[:, None, None, None]

    if layer.reference == "hold":
        change = None
        update = conv(x)
        response = update.to(exact) - conv.start(x)
    else:
        # In float32: rounded differences of half-precision frames would not add up to the frame.
        now = x.to(exact)
        change = torch.zeros_like(now) if state is None else now - kept(state.x).to(exact)
        update = conv.update(torch.where(full, now, change))
        response = update.to(exact)

    changed = None
    if state is None or bool(dense.all()):
        opened = layer.all_open(slots, size, x.device)
        if layer.must_know_changed:
            changed = torch.ones((slots, 1, *size), dtype=torch.bool, device=x.device)
    else:
        opened = gate.decide(_score(x, change, response, layer, size, state), state.scale)
        if layer.must_know_changed:
            changed = changed_outputs(x, kept(state.x), conv.geometry) | full
            opened = layer.close_unchanged(opened, changed)
        if cut is not None:
            density = layer.expand(opened, size).float().mean((1, 2, 3))
            is_cut = (density > cut).to(dense.device) & ~dense
            if bool(is_cut.any()):
                dense = dense | is_cut
                full = dense.to(x.device)[:, None, None, None]
                if change is not None:
                    update = conv.update(torch.where(full, now, change))
                    response = update.to(exact)
        opened = torch.where(full, torch.ones_like(opened), opened)

    g = layer.expand(opened, size)
    if layer.reference == "previous":
        before = conv.start(x)
        if state is not None:
            before = torch.where(full, before, state.z)
        exact_z = before + g * update.to(exact)
        z = exact_z.to(update.dtype if autocasts(x) else x.dtype)
    elif state is None:
        z = exact_z = update
    elif g.is_floating_point():
        z = exact_z = g.to(update.dtype) * update + (1 - g).to(update.dtype) * state.z
    else:
        z = exact_z = torch.where(g, update, state.z)

    scale = None if state is None else state.scale
    if bool(dense.any()):
        measured = gate.measure(x, response)
        if measured is not None:
            scale = measured if scale is None else torch.where(full.flatten(), measured, scale)
    after = SkipState(z=exact_z.clone(), scale=scale)
    if layer.reference == "previous" or layer.must_know_changed:
        after.x = x.clone()
    if layer.reference == "hold" and gate.source == "residual":
        _hold_input(after, x, opened, g, layer, state)
    return SkipResult(z=z, gate=opened, changed=changed, dense=dense, state=after)


def _score(
    x: Tensor,
    change: Tensor | None,
    response: Tensor,
    layer: GatedConvolution,
    size: tuple[int, int],
    state: SkipState,
) -> Tensor:
    """Block scores of what the gate looks at: (S, 1, Hb, Wb)."""
    sees, conv = layer.gate.sees, layer.conv
    if layer.gate.source == "frame":
        if sees != "output":
            return layer.score(x)
        return layer.score(response if change is None else conv(x, bias=False).to(response.dtype))
    if change is not None:
        return layer.score(response if sees == "output" else change)
    if sees == "output":  # w * d = (w * x_t + b) - z_{t-1}: the held output is the memory
        return layer.score(response + conv.start(x) - state.z)
    if sees == "linear":
        linear = layer.gate.score(x, conv) - kept(state.linear)
        return layer.pool(linear)
    return layer.patch_score(layer.patches(x), kept(state.patches), size)


def _hold_input(
    after: SkipState,
    x: Tensor,
    opened: Tensor,
    g: Tensor,
    layer: GatedConvolution,
    state: SkipState | None,
) -> None:
    """Keeps the input of the blocks that were computed, as far as the gate needs it."""
    if layer.gate.sees == "linear":
        linear = layer.gate.score(x, layer.conv)
        after.linear = linear if state is None else torch.where(g > 0.5, linear, kept(state.linear))
    elif layer.holds_patches:
        patches = layer.patches(x)
        blocks = opened[:, 0, :, :, None, None, None] > 0.5
        after.patches = (
            patches.clone(memory_format=torch.contiguous_format)
            if state is None
            else torch.where(blocks, patches, kept(state.patches))
        )
