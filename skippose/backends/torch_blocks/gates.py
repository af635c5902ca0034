"""The block backend's gates: which blocks open, and what that is measured against.

One class for each way to find out; :func:`gate_of` takes the one for a gate's kind of score, and
nothing but the gate's spec is read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.backends.torch_blocks.maps import POINT, row_power
from skippose.ops.gate_spec import GateSpec, InputNorm, Linear, OutputNorm
from skippose.ops.geometry import ConvGeometry
from skippose.ops.masks import pool_blocks
from skippose.ops.norms import finish_norm, window_power
from skippose.plan.errors import BackendError

LARGE = 2048
"""Pixels from which on windows are faster by sums of rows and of columns."""

if TYPE_CHECKING:
    from skippose.backends.torch_blocks.conv import ConvNode
    from skippose.backends.torch_blocks.nodes import Frame


class GateError(BackendError):
    """A gate that blocks cannot be asked about; whole maps can."""


class Opened(NamedTuple):
    """Blocks that open, and what the gate has made on the way.

    Attributes:
        where: (n,) their numbers, ascending.
        patches: (n, Ph·Pw·C), their input, where the gate has gathered it.
        y: (n·bh·bw, O), the convolution there, where the gate has computed it.
        looked: the share of each slot's outputs whose receptive field changed, where the gate must
            know it.
    """

    where: Tensor
    patches: Tensor | None = None
    y: Tensor | None = None
    looked: list[float] | None = None


class BlockGate:
    """The gate of one convolution, asked about blocks whose input changed.

    Attributes:
        spec: what it compares.
        needs_output: whether the convolution must hold its output for the gate.
        held: (S·Hb·Wb, Ph·Pw·C), the input of each block when it was last computed, or None.
        linear: (S·Hb·Wb, bh·bw), the score of that input, or None.
        scale: (S,), magnitudes for relative thresholds.
    """

    needs_output = False

    def __init__(self, node: ConvNode, spec: GateSpec, device: torch.device) -> None:
        layer = node.op.gated
        assert layer is not None
        self.node, self.spec = node, spec
        self.must_know_changed = layer.must_know_changed
        self.geometry, self.inside = layer.conv.geometry, layer.conv.unpadded().geometry
        self.delta = spec.change == "since the frame before"
        self.held = self.linear = None
        if layer.holds_patches:
            shape = (node.blocks, node.patches.rows.shape[1] * node.x.value.channels)
            self.held = torch.zeros(shape, dtype=node.dtype, device=device)
        elif layer.holds_score:
            pixels = node.block[0] * node.block[1]
            self.linear = torch.zeros((node.blocks, pixels), dtype=node.exact, device=device)
        self.scale = torch.zeros(node.slots, dtype=node.exact, device=device)

    def opens(self, now: Frame) -> Opened:
        """Blocks that open, of slots that are not due; keeps what they are measured against."""
        where, looked = self.node.touched(now), None
        if where.shape[0] and self.must_know_changed:
            where, looked = self._changed(where)
        if where.shape[0] == 0:
            return Opened(where, looked=looked)
        return self._open(where)._replace(looked=looked)

    def _open(self, where: Tensor) -> Opened:
        """Those that open among some blocks."""
        raise NotImplementedError

    def _above(self, score: Tensor, where: Tensor) -> Tensor:
        """Which of some blocks' scores, (n, bh, bw), exceed the threshold: (k,) places."""
        node = self.node
        if node.valid is not None:
            score = score.masked_fill(~node.valid.index_select(0, where), -math.inf)
        largest = score.amax((-2, -1))[:, None, None, None]
        scale = self.scale if node.slots == 1 else self.scale[where // node.cells]
        return (largest > self.spec.threshold.limit(scale)).view(-1).nonzero().view(-1)

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
        sums = torch.zeros(node.slots, dtype=torch.float64, device="cpu")
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
        if self.spec.threshold.relative_to == "output":
            response = z.to(node.exact) - node.bias.to(node.exact)
        measured = self.spec.threshold.measure(x, response)
        if measured is not None:
            self.scale[slots] = measured
        if self.held is None and self.linear is None:
            return
        cells = torch.arange(node.cells, dtype=torch.long, device="cpu")
        blocks = (slots[:, None] * node.cells + cells).flatten()
        if self.held is not None:
            held = node.x.data.index_select(0, node.patches.of(blocks))
            _keep(self.held, blocks, held.view(blocks.shape[0], -1))
        if self.linear is not None:
            linear = self.spec.score.on_maps(x, self.geometry)[:, 0]
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


class InputGate(BlockGate):
    """A gate on the input: scores are computed from the blocks' patches."""

    def _open(self, where: Tensor) -> Opened:
        node, count = self.node, where.shape[0]
        source = node.x.delta if self.delta else node.x.data
        assert source is not None
        patches = source.index_select(0, node.patches.of(where)).view(count, *node.patch, -1)
        keep: Tensor | None = None
        if self.held is not None:
            keep = patches.view(count, -1)
            patches = (self._of(self.held, where) - keep).view_as(patches)
        score = self.spec.score.on_maps(patches.permute(0, 3, 1, 2), self.inside)[:, 0]
        if self.linear is not None:
            keep = score.reshape(count, -1)
            score = score - self._of(self.linear, where).view_as(score)
        opens = self._above(score, where)
        if opens.shape[0] < count:
            where = where.index_select(0, opens)
            keep = None if keep is None else keep.index_select(0, opens)
        for held in (self.held, self.linear):
            if held is not None and keep is not None:
                _keep(held, where, keep)
        return Opened(where)


class OutputGate(BlockGate):
    """A gate on the output: the convolution is computed to be asked about."""

    def __init__(
        self, node: ConvNode, spec: GateSpec, score: OutputNorm, device: torch.device
    ) -> None:
        super().__init__(node, spec, device)
        self.score = score
        self.frame = spec.change == "none"
        self.needs_output = spec.change == "since held"

    def _open(self, where: Tensor) -> Opened:
        node, count = self.node, where.shape[0]
        bias = self.needs_output or (self.frame and not node.previous)
        y = node.convolve(where, self.delta, bias=bias)
        change = y.to(node.exact)
        if self.needs_output:
            change = change - node.held_output(where)
        elif self.frame and not node.previous:
            change = change - node.bias
        change = change.clone() if change is y else change
        power = row_power(change, self.score.p)
        score = finish_norm(power, self.score.p, node.channels, self.score.normalize)
        opens = self._above(score.view(count, *node.block), where)
        if opens.shape[0] < count:
            where = where.index_select(0, opens)
            y = y.view(count, -1).index_select(0, opens)
        if self.frame and node.previous:  # the change is what is added, not the frame
            return Opened(where)
        return Opened(where, y=y.view(-1, node.channels))


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

    def __init__(
        self, node: ConvNode, spec: GateSpec, score: InputNorm, device: torch.device
    ) -> None:
        super().__init__(node, spec, device)
        self.p = score.p
        self.image = node.x.inner(node.x.measured(score.p))[:, None]
        # The score's divisor, folded into the threshold so that no division is needed per block.
        elements = node.x.value.channels * math.prod(node.op.geometry.kernel_size)
        self.unit = elements ** (1 / score.p) if score.normalize else 1.0
        if score.gain is not None:
            self.unit = self.unit / float(score.gain) if bool(score.gain) else math.inf
        self.bound: Tensor | None = None
        self.limit = torch.zeros(node.blocks, dtype=torch.float64, device=device)
        if not node.previous:
            self.bound = torch.zeros_like(self.limit)
        # A bound this close to the threshold counts as above it, because of rounding.
        rounding = max(1e-9, 128 * torch.finfo(node.exact).eps)
        self.narrow = 1 - rounding - 4 * torch.finfo(node.dtype).eps
        self.readers = 1
        self._answer: tuple[Frame, int, Opened] | None = None
        self._set_limit()

    def _set_limit(self) -> None:
        threshold = self.spec.threshold
        limit = torch.full_like(self.scale, float(threshold.value))
        if threshold.relative_to is not None:
            limit = limit * self.scale
        self.limit.view(self.node.slots, -1).copy_(limit[:, None].double() * self.unit)
        self.low = self.limit * self.narrow

    def _norm_of(self, power: Tensor, geometry: ConvGeometry) -> Tensor:
        """Powers, (n, 1, h, w), to norms times the unit, (n, 1, h', w')."""
        norm = power if geometry == POINT else _window(power, geometry, self.p)
        return norm.sqrt() if self.p == 2 else norm

    def opens(self, now: Frame) -> Opened:
        if self._answer is None or self._answer[0] is not now:
            self._answer = (now, self.readers, self._decide(now))
        _, left, answer = self._answer
        # What was gathered is not kept longer than it is needed.
        self._answer = (now, left - 1, answer) if left > 1 else None
        return answer

    def _decide(self, now: Frame) -> Opened:
        step = pool_blocks(self._norm_of(self.image, self.node.op.geometry), self.node.block)
        step = step.reshape(-1)
        if self.bound is None:
            opens = step > self.limit
            if now.any_due:
                opens.view(now.slots, -1)[now.due] = False
            return Opened(opens.nonzero().view(-1))
        bound = self.bound.add_(step)
        if now.any_due:
            bound.view(now.slots, -1)[now.due] = 0
        # An overflow in half precision may have left what is no number.
        maybe = (bound <= self.low).logical_not_()
        where = maybe.nonzero().view(-1)
        if where.shape[0] == 0:
            return Opened(where)
        stale = maybe.logical_and_(bound != step).nonzero().view(-1)
        if stale.shape[0]:
            bound.index_copy_(0, stale, self._since_held(stale))
        where = (bound > self.limit).nonzero().view(-1)
        return Opened(where, self._hold(where) if where.shape[0] else None)

    def _since_held(self, where: Tensor) -> Tensor:
        """Largest norms of the change since some blocks were computed: (n,) float64."""
        node, count = self.node, where.shape[0]
        assert self.held is not None
        patches = node.x.data.index_select(0, node.patches.of(where)).view(count, -1)
        change = patches.sub_(self._of(self.held, where)).view(count, 1, *node.patch, -1)
        norm = self._norm_of(row_power(change, self.p), self.inside)[:, 0]
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


class BlockGates:
    """The gate of one convolution, by its kind of score.

    Args:
        node: the convolution.
        spec: its gate's.
        device: of the maps.
        known: those made so far that others may share.
    """

    def __init__(
        self, node: ConvNode, spec: GateSpec, device: torch.device, known: dict[Any, ChangeGate]
    ) -> None:
        self.node, self.spec, self.device, self.known = node, spec, device, known

    def input_norm(self, score: InputNorm) -> BlockGate:
        """Bounds spare most comparisons; layers that would open the same blocks share a gate."""
        if self.spec.change == "none":
            return InputGate(self.node, self.spec, self.device)
        threshold, op = self.spec.threshold, self.node.op
        if threshold.relative_to == "output" or score.gain is not None:
            return ChangeGate(self.node, self.spec, score, self.device)
        fixed = None if threshold.calibrated is None else float(threshold.calibrated)
        reads = (op.inputs[0], op.geometry, self.node.block, self.node.previous)
        opens = (score.p, score.normalize, threshold.relative_to, float(threshold.value), fixed)
        key = (reads, opens)
        if key in self.known:
            self.known[key].readers += 1
        else:
            self.known[key] = ChangeGate(self.node, self.spec, score, self.device)
        return self.known[key]

    def output_norm(self, score: OutputNorm) -> BlockGate:
        """Computes the convolution and asks about it."""
        return OutputGate(self.node, self.spec, score, self.device)

    def linear(self, score: Linear) -> BlockGate:
        """Computes the score where the input changed."""
        return InputGate(self.node, self.spec, self.device)


def gate_of(node: ConvNode, device: torch.device, known: dict[Any, ChangeGate]) -> BlockGate:
    """The gate of a gated convolution; ``known``: those made so far that others may share.

    Raises:
        GateError: for a gate without a spec, or with a kind of score that is not known here.
    """
    layer = node.op.gated
    assert layer is not None
    if layer.spec is None:
        raise GateError(
            f"layer {node.op.key}: {layer.gate_name} states no spec, so its own methods are asked"
        )
    try:
        return layer.spec.score.lower(BlockGates(node, layer.spec, device, known))
    except NotImplementedError as error:
        raise GateError(f"layer {node.op.key}: blocks have no {error}") from error
