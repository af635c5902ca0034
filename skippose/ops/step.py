"""Skip-Convolution one frame at a time, with explicit state, and without a branch on what it sees.

This is the step form, once: what a stream's modules run, what captured networks run on whole maps,
and what is exported. It never asks a device how many gates are open or which slots begin; such
questions are answered by selecting.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skippose.ops.contract import GatedConvolution, SkipResult, SkipState, kept
from skippose.ops.geometry import Convolution, accumulation_dtype, autocasts
from skippose.ops.masks import changed_outputs


def empty_state(layer: GatedConvolution, x: Tensor, z_dtype: torch.dtype) -> SkipState:
    """The state before a first frame: zeros that nothing depends on.

    Args:
        layer: the operation.
        x: (S, C, H, W), of which shape, dtype and device count.
        z_dtype: of what is held under ``hold``; running sums are float32 or better.
    """
    frame, exact = torch.zeros_like(x), accumulation_dtype(x.dtype)
    size, previous = layer.out_size(x), layer.reference == "previous"
    channels = layer.conv.weight.shape[0]
    z = x.new_zeros((x.shape[0], channels, *size), dtype=exact if previous else z_dtype)
    state = SkipState(z=z)
    measured = layer.gate.measure(frame, z.to(exact))
    if measured is not None:
        state.scale = torch.zeros_like(measured)
    if previous or layer.must_know_changed:
        state.x = frame
    if layer.holds_score:
        state.linear = x.new_zeros((x.shape[0], 1, *size), dtype=exact)
    elif layer.holds_patches:
        state.patches = layer.patches(frame).contiguous()
    return state


def skip_conv_step(
    x: Tensor,
    layer: GatedConvolution,
    state: SkipState | None = None,
    dense: Tensor | None = None,
    cut: float | None = None,
    conv: Convolution | None = None,
    imposed: Tensor | None = None,
) -> SkipResult:
    """Gated convolution of one frame; the equations are in :mod:`skippose.ops.reference`.

    The given state is never written to: whoever keeps it decides when the new one takes its place.
    The output shares no memory with either.

    Args:
        x: (S, C, H, W), one frame for each of S slots.
        layer: the convolution, its gate and what that refers to.
        state: what the frame before returned; None makes every slot dense, and asks no gate.
        dense: (S,) bool on the device of ``x``, slots to compute in full; none by default.
        cut: a density above which a slot is computed in full after all, as if it began here.
        conv: the convolution to compute, where that is not the layer's own: one into which batch
            norm was folded.
        imposed: (S, 1, Hb, Wb) bool, the blocks to compute, in place of what the gate decides.
    """
    conv = layer.conv if conv is None else conv
    gate, slots, size = layer.gate, x.shape[0], layer.out_size(x)
    exact, previous = accumulation_dtype(x.dtype), layer.reference == "previous"
    if state is None:
        dense = torch.ones(slots, dtype=torch.bool, device=x.device)
    elif dense is None:
        dense = torch.zeros(slots, dtype=torch.bool, device=x.device)
    elif gate.samples and bool(dense.all()):
        state = None  # in training: gates that are not asked draw no noise, as in the other forms
    now = change = x
    if previous:
        # In float32: rounded differences of half-precision frames would not add up to the frame.
        now = x.to(exact)
        change = torch.zeros_like(now) if state is None else now - kept(state.x).to(exact)

    def convolve(full: Tensor) -> tuple[Tensor, Tensor]:
        """What is computed, and its part without bias in the accumulators' dtype."""
        if previous:
            update = conv.update(torch.where(full, now, change))
            return update, update.to(exact)
        update = conv(x)
        return update, update.to(exact) - conv.start(x)

    full = dense[:, None, None, None]
    update, response = convolve(full)
    changed = None
    if state is None:
        opened = layer.all_open(slots, size, x.device)
        if layer.must_know_changed:
            changed = torch.ones((slots, 1, *size), dtype=torch.bool, device=x.device)
    else:
        if imposed is None:
            score = step_score(x, layer, state, response, conv)
            opened = gate.decide(score, state.scale)
        else:
            opened = imposed
        if layer.must_know_changed:
            changed = changed_outputs(x, kept(state.x), conv.geometry) | full
            opened = opened if imposed is not None else layer.close_unchanged(opened, changed)
        if cut is not None:
            density = layer.expand(opened, size).to(exact).mean((1, 2, 3))
            dense = dense | (density > cut)
            full = dense[:, None, None, None]
            if previous:
                update, response = convolve(full)
        opened = torch.where(full, torch.ones_like(opened), opened)

    g = layer.expand(opened, size)
    if previous:
        before = conv.start(x)
        if state is not None:
            before = torch.where(full, before, state.z)
        held = before + g * update.to(exact)
        z = held.to(update.dtype if autocasts(x) else x.dtype)
    elif state is None:
        z = held = update
    elif g.is_floating_point():
        z = held = g.to(update.dtype) * update + (1 - g).to(update.dtype) * state.z
    else:
        z = held = torch.where(g, update, state.z)

    measured = gate.measure(x, response)
    if measured is not None and state is not None:
        measured = torch.where(dense, measured, kept(state.scale))
    after = SkipState(z=held.clone() if held is z else held, scale=measured)
    if previous or layer.must_know_changed:
        after.x = x.clone()
    if layer.holds_score:
        linear = gate.score(x, layer.conv)
        after.linear = linear if state is None else torch.where(g > 0.5, linear, kept(state.linear))
    elif layer.holds_patches:
        patches = layer.patches(x)
        if state is None:
            after.patches = patches.clone(memory_format=torch.contiguous_format)
        else:
            blocks = opened[:, 0, :, :, None, None, None] > 0.5
            after.patches = torch.where(blocks, patches, kept(state.patches))
    return SkipResult(z=z, gate=opened, changed=changed, dense=dense, state=after)


def step_score(
    x: Tensor, layer: GatedConvolution, state: SkipState, response: Tensor, conv: Convolution
) -> Tensor:
    """Block scores of what the gate looks at: (S, 1, Hb, Wb).

    Args:
        x: (S, C, H, W).
        layer: the operation.
        state: what the frame before returned.
        response: (S, O, H', W'): ``w * x`` under ``hold``, ``w * d`` under ``previous``.
        conv: the convolution that gave it.
    """
    if layer.change == "none":
        if layer.sees == "input":
            return layer.score(x)
        if layer.reference == "previous":  # what was convolved is the change
            response = layer.conv(x, bias=False).to(response.dtype)
        return layer.score(response)
    if layer.change == "since the frame before":
        if layer.sees == "output":
            return layer.score(response)
        return layer.score(x.to(response.dtype) - kept(state.x).to(response.dtype))
    if layer.sees == "output":  # w * d = (w * x_t + b) - z_{t-1}: the held output is the memory
        return layer.score(response + conv.start(x) - state.z)
    if layer.holds_score:
        return layer.pool(layer.gate.score(x, layer.conv) - kept(state.linear))
    return layer.patch_score(layer.patches(x), kept(state.patches), layer.out_size(x))
