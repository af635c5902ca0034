"""The portable engine's gates: which blocks open, and what that is measured against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.backends.torch_blocks.maps import POINT, row_power
from skippose.gates.norm import NormGate
from skippose.ops.geometry import ConvGeometry
from skippose.ops.masks import pool_blocks
from skippose.ops.norms import finish_norm, window_power

LARGE = 2048
"""Pixels from which on windows are faster by sums of rows and of columns."""

if TYPE_CHECKING:
    from skippose.backends.torch_blocks.conv import ConvNode
    from skippose.backends.torch_blocks.nodes import Frame


class BlockGate:
    """The gate of one convolution, asked about blocks.

    Attributes:
        needs_output: whether the convolution must hold its output for the gate.
        held: (S·Hb·Wb, Ph·Pw·C), the input of each block when it was last computed, or None.
        linear: (S·Hb·Wb, bh·bw), φ*x then, or None.
        scale: (S,), magnitudes for relative thresholds.
    """

    def __init__(self, node: ConvNode, device: torch.device) -> None:
        layer = node.op.gated
        assert layer is not None
        self.node, self.layer, self.gate = node, layer, layer.gate
        self.conv = layer.conv.unpadded()
        self.frame = self.gate.source == "frame"
        self.delta = node.previous and not self.frame
        since_held = not node.previous and not self.frame
        self.needs_output = since_held and self.gate.sees == "output"
        self.held = self.linear = None
        if since_held and layer.holds_patches:
            shape = (node.blocks, node.patches.rows.shape[1] * node.x.value.channels)
            self.held = torch.zeros(shape, dtype=node.dtype, device=device)
        elif since_held and self.gate.sees == "linear":
            pixels = node.block[0] * node.block[1]
            self.linear = torch.zeros((node.blocks, pixels), dtype=node.exact, device=device)
        self.scale = torch.zeros(node.slots, dtype=node.exact, device=device)

    def open(self, where: Tensor) -> tuple[Tensor, Tensor | None, list[float] | None]:
        """Blocks that open among those whose input changed; keeps what their gates refer to.

        Returns:
            Their numbers; the result of the convolution, (n·bh·bw, O), where the gate has computed
            it; and the share of each slot's outputs whose receptive field changed, where the gate
            must know it.
        """
        node, looked = self.node, None
        if self.layer.must_know_changed:
            where, looked = self._changed(where)
            if where.shape[0] == 0:
                return where, None, looked
        count = where.shape[0]
        score, keep = self._of_output(where) if self.gate.sees == "output" else self._score(where)
        if node.valid is not None:
            score = score.masked_fill(~node.valid.index_select(0, where), -math.inf)
        largest = score.amax((-2, -1))[:, None, None, None]
        slot = self.scale if node.slots == 1 else self.scale[where // node.cells]
        opens = self.gate.decide(largest, slot).view(-1).nonzero().view(-1)
        if opens.shape[0] < count:
            where = where.index_select(0, opens)
            if keep is not None:
                keep = keep.view(count, -1).index_select(0, opens)
        if self.gate.sees == "output":
            assert keep is not None
            if self.frame and node.previous:  # the change is what is added, not the frame
                return where, None, looked
            return where, keep.view(-1, node.channels), looked
        for held in (self.held, self.linear):
            if held is not None and keep is not None:
                _keep(held, where, keep)
        return where, None, looked

    def _of_output(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n, bh, bw) of the convolution itself, and the convolution, (n·bh·bw, O)."""
        node, norm = self.node, cast(NormGate, self.gate)
        with_bias = not self.delta and not self.frame
        bias = with_bias or (self.frame and not node.previous)
        keep = node.convolve(where, self.delta, bias=bias)
        change = keep.to(node.exact)
        if with_bias:
            change = change - node.held_output(where)
        elif self.frame and not node.previous:
            change = change - node.bias
        change = change.clone() if change is keep else change
        power = finish_norm(row_power(change, norm.p), norm.p, node.channels, norm.normalize)
        return power.view(where.shape[0], *node.block), keep

    def _score(self, where: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (n, bh, bw) of the input or its change, and what to keep of it, (n, ...)."""
        node, gate, count = self.node, self.gate, where.shape[0]
        source = node.x.delta if self.delta else node.x.data
        assert source is not None
        patches = source.index_select(0, node.patches.of(where)).view(count, *node.patch, -1)
        if gate.sees == "linear":
            score = gate.score(patches.permute(0, 3, 1, 2), self.conv)[:, 0]
            if self.linear is None:
                return score, None
            held = self._of(self.linear, where).view_as(score)
            return score - held, score.reshape(count, -1)
        change = patches
        keep: Tensor | None = None
        if self.held is not None:
            keep = patches.view(count, -1)
            change = (self._of(self.held, where) - keep).view_as(patches)
        if gate.sees == "magnitude":
            return gate.score(change.permute(0, 3, 1, 2), self.conv)[:, 0], keep
        norm = cast(NormGate, gate)
        power = row_power(change, norm.p).view(count, 1, *node.patch)
        power = window_power(power, self.conv.geometry, norm.p)
        elements = node.x.value.channels * math.prod(self.conv.geometry.kernel_size)
        score = finish_norm(power, norm.p, elements, norm.normalize)[:, 0]
        # What an output norm multiplies by does not change from frame to frame.
        return (score if node.op.gain == 1 else score * node.op.gain), keep

    def _of(self, held: Tensor, where: Tensor) -> Tensor:
        return held if where.shape[0] == self.node.blocks else held.index_select(0, where)

    def _changed(self, where: Tensor) -> tuple[Tensor, list[float]]:
        """Blocks with an output whose receptive field changed, and how many outputs have."""
        node, g = self.node, self.node.op.geometry
        rows = node.patches.of(where)
        dirty = node.x.dirty.index_select(0, rows).view(-1, 1, *node.patch).float()
        changed = F.max_pool2d(dirty, g.kernel_size, g.stride, 0, g.dilation)[:, 0]
        if node.valid is not None:
            changed = changed * node.valid.index_select(0, where)
        outputs = changed.sum((1, 2), dtype=torch.float64) / (node.size[0] * node.size[1])
        sums = torch.zeros(node.slots, dtype=torch.float64)
        sums.index_add_(0, where // node.cells, outputs)
        return where[changed.amax((1, 2)) > 0], sums.tolist()

    def begin(self, slots: Tensor, inner: Tensor, z: Tensor) -> None:
        """Slots begin anew: what their gates refer to.

        Args:
            slots: (n,) their numbers.
            inner: (n, H, W, C), their input.
            z: (n, H', W', O), their convolution.
        """
        node, x = self.node, inner.permute(0, 3, 1, 2)
        response = z
        if isinstance(self.gate, NormGate) and self.gate.relative_to == "output":
            response = z.to(node.exact) - node.bias.to(node.exact)
        measured = self.gate.measure(x, response)
        if measured is not None:
            self.scale[slots] = measured
        if self.held is None and self.linear is None:
            return
        blocks = (slots[:, None] * node.cells + torch.arange(node.cells)).flatten()
        if self.held is not None:
            held = node.x.data.index_select(0, node.patches.of(blocks))
            _keep(self.held, blocks, held.view(blocks.shape[0], -1))
        if self.linear is not None:
            linear = self.gate.score(x, self.layer.conv)[:, 0]
            surplus = [node.grid[i] * node.block[i] - node.size[i] for i in (0, 1)]
            linear = F.pad(linear, (0, surplus[1], 0, surplus[0]))
            linear = linear.unflatten(2, (node.grid[1], node.block[1]))
            linear = linear.unflatten(1, (node.grid[0], node.block[0])).transpose(2, 3)
            _keep(self.linear, blocks, linear.reshape(blocks.shape[0], -1))

    def forget(self) -> None:
        """What is held has come from elsewhere: nothing is known of it but its values."""

    def held_by_name(self) -> dict[str, Tensor]:
        """What it refers to, by the names of a saved state."""
        held = {"held": self.held, "linear": self.linear, "scale": self.scale}
        return {k: v for k, v in held.items() if v is not None}


def _keep(held: Tensor, blocks: Tensor, new: Tensor) -> None:
    if blocks.shape[0] == held.shape[0]:
        held.copy_(new)
    else:
        held.index_copy_(0, blocks, new)


class ChangeGate(BlockGate):
    """A norm gate on the input's change, which reads what is held only where it must.

    A norm of the change since a block was computed is at most the sum of the norms of what has
    changed from frame to frame since then, and is just that in the first frame after. These come
    from the map, where they are measured once for all its readers, a number per pixel. So a block
    whose bound is below the threshold is closed, one that was computed in the frame before is
    decided, and only the rest is compared with what is held.

    Layers that read the same map in the same windows, with the same threshold, share one: they open
    the same blocks in every frame.

    Attributes:
        readers: how many layers share it.
        bound: (S·Hb·Wb,) float64, at least the largest norm in a block of the change since it was
            computed, times :attr:`unit`; None under ``previous``, where that is a frame ago.
        limit: (S·Hb·Wb,) float64, what the threshold is then.
    """

    def __init__(self, node: ConvNode, device: torch.device) -> None:
        super().__init__(node, device)
        norm = cast(NormGate, self.gate)
        self.image = node.x.inner(node.x.measured(norm.p))[:, None]
        # What a score is divided by after everything else, so that it need not be.
        elements = node.x.value.channels * math.prod(node.op.geometry.kernel_size)
        self.unit = elements ** (1 / norm.p) if norm.normalize else 1.0
        self.unit = self.unit / node.op.gain if node.op.gain else math.inf
        self.bound: Tensor | None = None
        self.limit = torch.zeros(node.blocks, dtype=torch.float64, device=device)
        if not node.previous:
            self.bound = torch.zeros_like(self.limit)
        # By how much a bound must be wide of a norm, as rounding goes.
        rounding = max(1e-9, 128 * torch.finfo(node.exact).eps)
        self.narrow = 1 - rounding - 4 * torch.finfo(node.dtype).eps
        self.readers = 1
        self._answer: tuple[Frame, int, tuple[Tensor, Tensor | None]] | None = None
        self._set_limit()

    def _set_limit(self) -> None:
        norm = cast(NormGate, self.gate)
        limit = torch.full_like(self.scale, norm.eps)
        if norm.scale == "relative":
            limit = limit * self.scale
        self.limit.view(self.node.slots, -1).copy_(limit[:, None].double() * self.unit)
        self.low = self.limit * self.narrow

    def _norm_of(self, power: Tensor, geometry: ConvGeometry) -> Tensor:
        """Powers, (n, 1, h, w), to norms times the unit, (n, 1, h', w')."""
        p = cast(NormGate, self.gate).p
        norm = power if geometry == POINT else _window(power, geometry, p)
        return norm.sqrt() if p == 2 else norm

    def opens(self, now: Frame) -> tuple[Tensor, Tensor | None]:
        """Blocks that open; keeps what they are measured against from now on.

        Returns:
            Their numbers, (n,); and their input, (n, Ph·Pw·C), where it was gathered.
        """
        if self._answer is None or self._answer[0] is not now:
            self._answer = (now, self.readers, self._decide(now))
        _, left, answer = self._answer
        # What was gathered is not kept longer than it is needed.
        self._answer = (now, left - 1, answer) if left > 1 else None
        return answer

    def _decide(self, now: Frame) -> tuple[Tensor, Tensor | None]:
        step = pool_blocks(self._norm_of(self.image, self.node.op.geometry), self.node.block)
        step = step.reshape(-1)
        if self.bound is None:
            opens = step > self.limit
            if now.any_due:
                opens.view(now.slots, -1)[now.due] = False
            return opens.nonzero().view(-1), None
        bound = self.bound.add_(step)
        if now.any_due:
            bound.view(now.slots, -1)[now.due] = 0
        # An overflow in half precision may have left what is no number.
        maybe = (bound <= self.low).logical_not_()
        where = maybe.nonzero().view(-1)
        if where.shape[0] == 0:
            return where, None
        stale = maybe.logical_and_(bound != step).nonzero().view(-1)
        if stale.shape[0]:
            bound.index_copy_(0, stale, self._since_held(stale))
        where = (bound > self.limit).nonzero().view(-1)
        return where, self._hold(where) if where.shape[0] else None

    def _since_held(self, where: Tensor) -> Tensor:
        """Largest norms of the change since some blocks were computed: (n,) float64."""
        node, count, p = self.node, where.shape[0], cast(NormGate, self.gate).p
        assert self.held is not None
        patches = node.x.data.index_select(0, node.patches.of(where)).view(count, -1)
        change = patches.sub_(self._of(self.held, where)).view(count, 1, *node.patch, -1)
        norm = self._norm_of(row_power(change, p), self.conv.geometry)[:, 0]
        if node.valid is not None:
            norm = norm * node.valid.index_select(0, where)
        return norm.amax((-2, -1)).double()

    def _hold(self, where: Tensor) -> Tensor:
        """Blocks are computed from the input as it is now: (n, Ph·Pw·C)."""
        node = self.node
        assert self.held is not None and self.bound is not None
        patches = node.x.data.index_select(0, node.patches.of(where)).view(where.shape[0], -1)
        _keep(self.held, where, patches)
        self.bound.index_fill_(0, where, 0)
        return patches

    def begin(self, slots: Tensor, inner: Tensor, z: Tensor) -> None:
        super().begin(slots, inner, z)
        self._set_limit()
        if self.bound is not None:
            self.bound.view(self.node.slots, -1)[slots] = 0

    def forget(self) -> None:
        self._set_limit()
        if self.bound is not None:
            self.bound.fill_(math.inf)


def _window(power: Tensor, geometry: ConvGeometry, p: float) -> Tensor:
    """:func:`window_power`; many windows row by row and column by column."""
    if power.numel() < LARGE or math.isinf(p) or geometry.stride != (1, 1):
        return window_power(power, geometry, p)
    power = geometry.pad(power)
    for dim, taps, step in zip((2, 3), geometry.kernel_size, geometry.dilation, strict=True):
        size = power.shape[dim] - step * (taps - 1)
        total = power.narrow(dim, 0, size)
        for tap in range(1, taps):
            part = power.narrow(dim, tap * step, size)
            total = total + part if tap == 1 else total.add_(part)
        power = total
    return power


def gate_of(node: ConvNode, device: torch.device, known: dict[Any, ChangeGate]) -> BlockGate:
    """The gate of a gated convolution; ``known``: those made so far that others may share."""
    layer = node.op.gated
    assert layer is not None
    gate = layer.gate
    if gate.sees != "input" or gate.source != "residual":
        return BlockGate(node, device)
    norm, op = cast(NormGate, gate), node.op
    if norm.relative_to != "input" or op.gain != 1:
        return ChangeGate(node, device)
    reads = (op.inputs[0], op.geometry, node.block, node.previous)
    key = (reads, norm.p, norm.normalize, norm.scale, norm.eps, float(norm.magnitude))
    if key in known:
        known[key].readers += 1
    else:
        known[key] = ChangeGate(node, device)
    return known[key]
