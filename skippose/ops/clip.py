"""Skip-Convolution over whole clips: one batch of convolutions, then a scan that only adds or
selects. What training and evaluation run."""

from __future__ import annotations

import torch
from torch import Tensor

from skippose.ops.contract import (
    GatedConvolution,
    SkipResult,
    SkipState,
    stack_gates,
)
from skippose.ops.geometry import accumulation_dtype, autocasts
from skippose.ops.linear import linear_gates
from skippose.ops.masks import changed_outputs, dilate
from skippose.ops.scan import hold_scan, previous_scan, residual


def skip_conv_clip(
    x: Tensor,
    layer: GatedConvolution,
    state: SkipState | None = None,
    dense: Tensor | None = None,
    keep_state: bool = True,
) -> SkipResult:
    """Gated convolution of clips; the equations are in :mod:`skippose.ops.reference`.

    Args:
        x: (B, T, C, H, W).
        layer: the convolution, its gate and what that refers to.
        state: what the frames before returned, for clips that go on; None begins new clips.
        dense: (B, T) bool on the CPU, frames to compute in full.
        keep_state: return the state for the frames after; training has no use for it.
    """
    conv = layer.conv
    batch, frames = x.shape[:2]
    size = layer.out_size(x)
    exact = accumulation_dtype(x.dtype)
    if dense is None:
        dense = torch.zeros(batch, frames, dtype=torch.bool, device="cpu")
    else:
        dense = dense.clone()
    if state is None:
        dense[:, 0] = True
    full = dense.to(x.device)[:, :, None, None, None]

    changes = None
    if layer.reference == "hold":
        update = conv(x.flatten(0, 1)).unflatten(0, (batch, frames))
    else:
        # In float32: rounded differences of half-precision frames would not add up to the frame.
        before = None if state is None or state.x is None else state.x.to(exact)
        changes = residual(x.to(exact), dense, before)
        update = conv.update(changes.flatten(0, 1)).unflatten(0, (batch, frames))

    changed = None
    if layer.must_know_changed:
        if changes is None:
            changed = full | _changed(x, layer, size, state)
        else:  # frames that are dense are no changes here, and count as changed
            largest = changes.detach().abs().amax(2).flatten(0, 1)[:, None]
            moved = dilate((largest != 0).to(exact), conv.geometry) > 0
            changed = full | moved.unflatten(0, (batch, frames))
    scores: _Scores | None = None
    scale = linear = None
    if layer.decides_at_once:
        assert changed is not None
        since_held = changes is None and layer.change == "since held"
        seen = x if changes is None or layer.change == "none" else changes
        gates, linear = linear_gates(seen, layer, dense, changed, since_held, state)
    else:
        response = update.detach()
        if changes is None and conv.bias is not None:
            response = response - conv.start(x)
        scores = _scores(x, changes, response, layer, size, state)
        gates, scale = _frame_by_frame(x, response, layer, scores, dense, changed, state)
    g = layer.expand(gates, size)

    z_before = None if state is None else state.z
    if changes is None:
        z = exact_z = hold_scan(update, g, z_before)
    else:
        exact_z = previous_scan(update, g, dense, conv.bias, z_before)
        z = exact_z.to(update.dtype if autocasts(x) else x.dtype)
    after = None
    if keep_state:
        after = SkipState(z=exact_z[:, -1].clone(), scale=scale, linear=linear)
        if changes is not None or layer.must_know_changed:
            after.x = x[:, -1].clone()
        if scores is not None:
            scores.remember(after)
    return SkipResult(z=z, gate=gates, changed=changed, dense=dense, state=after)


def _frame_by_frame(
    x: Tensor,
    response: Tensor,
    layer: GatedConvolution,
    scores: _Scores,
    dense: Tensor,
    changed: Tensor | None,
    state: SkipState | None,
) -> tuple[Tensor, Tensor | None]:
    """(B, T, 1, Hb, Wb) gates, and the scale after the last frame."""
    gate, batch, size = layer.gate, x.shape[0], layer.out_size(x)
    exact = accumulation_dtype(x.dtype)
    full = dense.to(x.device)[:, :, None, None, None]
    scale = None if state is None else state.scale
    opened: list[Tensor] = []
    all_dense, any_dense = dense.all(0).tolist(), dense.any(0).tolist()
    for t in range(x.shape[1]):
        if all_dense[t]:
            g = layer.all_open(batch, size, x.device)
        else:
            g = gate.decide(scores.at(t), scale)
            if changed is not None:
                g = layer.close_unchanged(g, changed[:, t])
            if any_dense[t]:
                g = torch.where(full[:, t], torch.ones_like(g), g)
        if any_dense[t]:
            measured = gate.measure(x[:, t], response[:, t].to(exact))
            if measured is not None:
                kept_scale = measured if scale is None else scale
                scale = torch.where(full[:, t].flatten(), measured, kept_scale)
        scores.keep(t, g)
        opened.append(g)
    return stack_gates(opened), scale


def _changed(
    x: Tensor, layer: GatedConvolution, size: tuple[int, int], state: SkipState | None
) -> Tensor:
    """(B, T, 1, H', W') bool: changed since the frame before; True where there is none."""
    batch, geometry = x.shape[0], layer.conv.geometry
    if state is None or state.x is None:
        first = torch.ones((batch, 1, *size), dtype=torch.bool, device=x.device)
    else:
        first = changed_outputs(x[:, 0], state.x, geometry)
    if x.shape[1] == 1:
        return first[:, None]
    later = changed_outputs(x[:, 1:].flatten(0, 1), x[:, :-1].flatten(0, 1), geometry)
    return torch.cat([first[:, None], later.unflatten(0, (batch, -1))], 1)


def _scores(
    x: Tensor,
    changes: Tensor | None,
    response: Tensor,
    layer: GatedConvolution,
    size: tuple[int, int],
    state: SkipState | None,
) -> _Scores:
    """Where the gate's scores come from, by what it sees and refers to."""
    sees, conv = layer.sees, layer.conv
    if layer.change == "none":
        seen = x
        if sees == "output":
            seen = response
            if changes is not None:
                seen = conv(x.flatten(0, 1), bias=False).unflatten(0, x.shape[:2])
        return _KnownScores(seen, layer)
    if changes is not None:  # at dense frames these are no changes, and are not asked for
        return _KnownScores(response if sees == "output" else changes, layer)
    if sees == "input":
        return _InputSinceHeld(x, layer, size, state)
    return _OutputSinceHeld(response + conv.start(x), layer, size, state)


class _Scores:
    """Block scores frame after frame: ``at(t)``, then ``keep(t, g)`` with the gates made of it."""

    def at(self, t: int) -> Tensor:
        """(B, 1, Hb, Wb)."""
        raise NotImplementedError

    def keep(self, t: int, gate: Tensor) -> None:
        """Takes note of what frame t computed; nothing to do where scores ignore gates."""

    def remember(self, state: SkipState) -> None:
        """Puts what the next chunk needs into the state."""


class _KnownScores(_Scores):
    """Scores that do not depend on earlier gates: (B, T, ...) all at once."""

    def __init__(self, seen: Tensor, layer: GatedConvolution) -> None:
        self.scores = layer.score(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

    def at(self, t: int) -> Tensor:
        return self.scores[:, t]


class _OutputSinceHeld(_Scores):
    """``w * d = (w * x_t + b) - z_{t-1}``: the held output is the memory."""

    def __init__(
        self, y: Tensor, layer: GatedConvolution, size: tuple[int, int], state: SkipState | None
    ) -> None:
        self.y, self.layer, self.size = y, layer, size
        self.z = y[:, 0] if state is None else state.z

    def at(self, t: int) -> Tensor:
        return self.layer.score(self.y[:, t] - self.z)

    def keep(self, t: int, gate: Tensor) -> None:
        g = self.layer.expand(gate, self.size) > 0.5
        self.z = torch.where(g, self.y[:, t], self.z)


class _InputSinceHeld(_Scores):
    """Scores of ``x_t - x_τ``, τ differing from block to block.

    Each earlier frame that some block still refers to is paired with this frame as a whole, and
    every block picks its own pair: cheap, because a pair costs one pass over the input, far less
    than one convolution. Blocks last computed before this clip compare patches, as the step form
    does.
    """

    BEFORE = -1  # stands for "before this clip" among frame numbers

    def __init__(
        self, x: Tensor, layer: GatedConvolution, size: tuple[int, int], state: SkipState | None
    ) -> None:
        # Frames by themselves: every gradient of an x[:, t] would be as large as the clip.
        self.x, self.layer, self.size = x.unbind(1), layer, size
        self.patches = None if state is None else state.patches
        start = 0 if self.patches is None else self.BEFORE
        blocks = layer.all_open(x.shape[0], size, x.device)
        self.held_at = torch.full_like(blocks, start, dtype=torch.int64)
        self.buffer = torch.empty_like(x[:, 0]).detach()

    def at(self, t: int) -> Tensor:
        now, layer = self.x[t], self.layer
        live = self.held_at.unique().tolist()
        parts = []
        if live[0] == self.BEFORE and self.patches is not None:
            parts.append(layer.patch_score(layer.patches(now), self.patches, self.size))
        frames = [s for s in live if s >= 0]
        if frames:
            parts += layer.pool(self.pairs(now, frames)).split(now.shape[0])
        if len(parts) == 1:
            return parts[0]
        place = torch.zeros(len(self.x) + 1, dtype=torch.int64, device=now.device)
        place[live] = torch.arange(
            len(live), dtype=torch.int64, device=now.device
        )  # -1 is the last one
        return torch.stack(parts).gather(0, place[self.held_at][None])[0]

    def pairs(self, now: Tensor, frames: list[int]) -> Tensor:
        """Scores of the changes since K frames: (B, C, H, W) to (K·B, 1, H', W')."""
        before, spec = [self.x[s] for s in frames], self.layer.spec
        if spec is None:
            changes = torch.cat([now - x for x in before])
            return self.layer.gate.score(changes, self.layer.conv)
        return spec.score.of_pairs(now, before, self.layer.conv.geometry, self.buffer)

    def keep(self, t: int, gate: Tensor) -> None:
        self.held_at = torch.where(gate > 0.5, t, self.held_at)

    def remember(self, state: SkipState) -> None:
        held_at = self.held_at[:, 0, :, :, None, None, None]
        patches = self.patches
        for s in self.held_at.unique().tolist():
            if s != self.BEFORE:
                here = self.layer.patches(self.x[s])
                patches = here if patches is None else torch.where(held_at == s, here, patches)
        assert patches is not None
        state.patches = patches.clone(memory_format=torch.contiguous_format)
