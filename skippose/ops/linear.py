"""Gates whose score is linear in what they see, over all frames of a clip at once.

A gate that learns is a dozen small operations a frame, and as many on the way back. Under
``previous`` no frame's score depends on another's gate, so that all of them are decided together.
Under ``hold`` they do depend on one another: a scan without gradient finds the masks, after which
each frame's score is known, and all are decided, now with a gradient, together too.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from skippose.ops.contract import GatedConvolution, LearnedRule, SkipState, kept
from skippose.ops.masks import pool_blocks
from skippose.ops.scan import hold_scan


def linear_gates(
    seen: Tensor,
    layer: GatedConvolution,
    dense: Tensor,
    changed: Tensor,
    since_held: bool,
    state: SkipState | None,
) -> tuple[Tensor, Tensor | None]:
    """The gates of all frames, and what the gate remembers after the last.

    Args:
        seen: (B, T, C, H, W), what the gate looks at: changes or frames.
        layer: the layer, with a gate that is linear.
        dense: (B, T) bool on the CPU, frames computed in full.
        changed: (B, T, 1, H', W') bool; elsewhere blocks stay closed.
        since_held: ``seen`` are frames, and a score is that of the change since an output was last
            computed.
        state: what the frames before left; None at the beginning, where the first frame is dense.

    Returns:
        (B, T, 1, Hb, Wb), bool or float with a gradient; and, for ``since_held``, (B, 1, H', W').
    """
    gate = cast(LearnedRule, layer.gate)
    size = layer.out_size(seen)
    scores = gate.score(seen.flatten(0, 1), layer.conv).unflatten(0, seen.shape[:2])
    may_open = pool_blocks(changed.flatten(0, 1).to(scores.dtype), layer.block) > 0
    may_open = may_open.unflatten(0, seen.shape[:2])
    # Frames that are dense in all clips are not decided, and draw no noise.
    asked = [t for t, everywhere in enumerate(dense.all(0).tolist()) if not everywhere]
    offsets = gate.offsets(scores.new_empty(len(asked), len(seen), *may_open.shape[2:]))
    offsets = offsets.transpose(0, 1)
    full = dense.to(seen.device)[:, :, None, None, None]

    memory = None
    if since_held:
        before = None if state is None else kept(state.linear)
        masks = _masks(scores.detach(), layer, offsets.detach(), asked, may_open, full, before)
        held = hold_scan(scores, layer.expand(masks, size), before)
        memory = held[:, -1].clone()  # not a view, which would keep all frames
        if before is None:  # the first frame is dense, and its score not asked for
            before = scores[:, 0]
        scores = scores - torch.cat([before[:, None], held[:, :-1]], 1)
    scores = scores if len(asked) == scores.shape[1] else scores[:, asked]
    pooled = layer.pool(scores.flatten(0, 1)).unflatten(0, scores.shape[:2])
    opened = gate.decide(pooled, None, offsets) * may_open[:, asked]
    if full[:, asked].any():
        opened = torch.where(full[:, asked], torch.ones_like(opened), opened)
    if len(asked) == seen.shape[1]:
        return opened, memory
    gates = opened.new_ones(may_open.shape)
    gates[:, asked] = opened
    return gates, memory


@torch.no_grad()
def _masks(
    scores: Tensor,
    layer: GatedConvolution,
    offsets: Tensor,
    asked: list[int],
    may_open: Tensor,
    full: Tensor,
    held: Tensor | None,
) -> Tensor:
    """(B, T, 1, Hb, Wb) bool: what opens when each score refers to the output's last opening."""
    masks = may_open | full
    size = (scores.shape[-2], scores.shape[-1])
    if held is None:
        held = scores[:, 0]
    number_of = {t: number for number, t in enumerate(asked)}
    for t in range(scores.shape[1]):
        if t in number_of:  # other frames are dense in every clip: all open, and all held anew
            score = layer.pool(scores[:, t] - held)
            masks[:, t] &= (score + offsets[:, number_of[t]] > 0) | full[:, t]
        if t + 1 < scores.shape[1]:
            held = torch.where(layer.expand(masks[:, t], size), scores[:, t], held)
    return masks
