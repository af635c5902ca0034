"""The portable engine's gates: which blocks open, and what that is measured against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.gates.norm import NormGate
from skippose.ops.geometry import accumulation_dtype
from skippose.ops.norms import finish_norm, window_power

if TYPE_CHECKING:
    from skippose.runtime.torch_conv import ConvNode


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
        power = finish_norm(_power(change, norm.p), norm.p, node.channels, norm.normalize)
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
        norm, channels = cast(NormGate, gate), node.x.value.channels
        power = _power(change, norm.p, own=True).view(count, 1, *node.patch)
        power = window_power(power, self.conv.geometry, norm.p)
        elements = channels * math.prod(self.conv.geometry.kernel_size)
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

    def held_by_name(self) -> dict[str, Tensor]:
        """What it refers to, by the names of a saved state."""
        held = {"held": self.held, "linear": self.linear, "scale": self.scale}
        return {k: v for k, v in held.items() if v is not None}


def _keep(held: Tensor, blocks: Tensor, new: Tensor) -> None:
    if blocks.shape[0] == held.shape[0]:
        held.copy_(new)
    else:
        held.index_copy_(0, blocks, new)


def _power(change: Tensor, p: float, own: bool = False) -> Tensor:
    """``Σ_c |change|^p``, or its maximum: (n, h, w, C) to (n, h, w), in float32 or better.

    ``own``: ``change`` may be overwritten.
    """
    dtype = accumulation_dtype(change.dtype)
    if p != 2:
        change = change.abs_() if own else change.abs()
        return change.amax(-1).to(dtype) if math.isinf(p) else change.sum(-1, dtype=dtype)
    # Several times faster than torch.linalg.vector_norm on a CPU.
    return change.to(dtype).square().sum(-1)
