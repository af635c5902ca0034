"""The portable engine's convolutions: gate, gather, convolve, scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.gates import InputNormGate
from skippose.gates.norm import NormGate
from skippose.ops.geometry import accumulation_dtype
from skippose.ops.norms import finish_norm
from skippose.runtime.dense_ops import activate, affine, block_weights
from skippose.runtime.maps import Tables, touched
from skippose.runtime.plan import Conv, Plan
from skippose.runtime.torch_nodes import Frame, Maps, tiling

# Measured on AVX-512, one thread: products of gathered columns run at 70 to 100% of the machine's
# rate from 16 rows on. oneDNN's convolution of gathered patches is as fast with few channels and
# many rows only, and up to ten times slower on 1x1 blocks of 256 channels.
NARROW, MANY = 48, 1024
"""Input channels up to which, and outputs from which on, patches are convolved by oneDNN."""
BREAK_EVEN = 0.85
"""Share of open blocks above which a layer is computed as a whole; masks are kept."""


class ConvNode:
    """One convolution, gated or dense, with what it holds between frames.

    Blocks are numbered slot by slot, row by row; "where" is a list of their numbers, (n,).

    Attributes:
        op: the plan's operation.
        block: (rows, columns) of outputs per block.
        z: (S·Hb·Wb, bh·bw·O), what is held, where the output alone does not tell.
        held: (S·Hb·Wb, Ph·Pw·C), the input of each block when it was last computed.
        linear: (S·Hb·Wb, bh·bw), φ*x then.
        scale: (S,), magnitudes for relative thresholds.
        density_sum: over counted frames and slots.
        looked_sum: likewise, of outputs whose receptive field changed.
        opened: (S, Hb, Wb) bool in the last frame, where ``keep_masks``.
    """

    keep_masks = False

    def __init__(self, op: Conv, plan: Plan, tile: tuple[int, int], maps: Maps, t: Tables) -> None:
        self.op, self.slots = op, t.slots
        self.x, self.output = maps[op.inputs[0]], maps[op.output]
        self.adds = [maps[v] for v in op.add]
        x, out, g = self.x.value, self.output.value, op.geometry
        self.size, self.channels = (out.height, out.width), out.channels
        self.block = op.block if op.gated is not None else tile
        self.grid = tiling(self.size, self.block)
        self.cells = self.grid[0] * self.grid[1]
        self.patch = tuple((self.block[i] - 1) * g.stride[i] + g.extent[i] for i in (0, 1))
        self.patches = t.patches(x, g, self.block)
        self.flat = self.patches.flatten()
        self.columns = t.columns(x, out, g, self.block) if g.groups == 1 else None
        self.reads = t.blocks(out, self.block)
        self.blocks = len(self.reads)  # counted once: len() of a tensor is a slow call
        self.flat_reads = self.reads.flatten()
        self.writes = t.blocks(out, self.block, beyond=1)
        # (S·Hb·Wb, bh, bw): outputs that exist; None if all do.
        last = t.slots * out.height * out.width
        valid = (self.writes <= last).unflatten(1, self.block)
        self.valid = None if bool(valid.all()) else valid
        self.share = None if op.gated is None else block_weights(op, self.size).flatten()
        even = self.share is not None and bool((self.share == self.share[0]).all())
        self.even = 1 / self.cells if even else None

        self.exact = accumulation_dtype(plan.dtype)
        self.dtype = plan.dtype
        self.previous = op.reference == "previous"
        # `previous` computes in the accumulators' precision.
        weight = op.weight.to(self.exact if self.previous else self.dtype)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = op.bias.to(weight.dtype)
        # (kh·kw·C, O), columns times this are outputs.
        self.matrix = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()
        self.narrow = g.groups > 1 or (weight.shape[1] <= NARROW and g.kernel_size != (1, 1))

        since_held = False
        if op.gated is not None:
            gate = op.gated.gate
            since_held = not self.previous and gate.source == "residual"
        self.holds = bool(op.add) or op.affine is not None or self.previous
        self.z = self.held = self.linear = None
        blocks, device = self.blocks, plan.device
        pixels = self.block[0] * self.block[1]
        if op.gated is not None and since_held:
            self.holds = self.holds or gate.sees == "output"
            if op.gated.holds_patches:
                shape = (blocks, self.patches.shape[1] * x.channels)
                self.held = torch.zeros(shape, dtype=self.dtype, device=device)
            elif gate.sees == "linear":
                self.linear = torch.zeros((blocks, pixels), dtype=self.exact, device=device)
        if self.holds:
            held_as = self.exact if self.previous else self.dtype
            self.z = torch.zeros((blocks, pixels * self.channels), dtype=held_as, device=device)
        self.scale = torch.zeros(t.slots, dtype=self.exact, device=device)
        self.opened = torch.zeros((t.slots, *self.grid), dtype=torch.bool)
        self.density_sum = self.looked_sum = 0.0
        self._density = [0.0] * t.slots
        self._looked = [0.0] * t.slots
        self._fixed: Tensor | None = None

    def fix_mask(self, cells: Tensor | None) -> None:
        """See :meth:`Engine.fix_masks`."""
        self._fixed = None
        if cells is not None:
            at = [
                ((torch.arange(n) + 0.5) * size / n).long()
                for n, size in zip(self.grid, cells.shape, strict=True)
            ]
            mask = cells[at[0][:, None], at[1]].expand(self.slots, *self.grid)
            self._fixed = mask.flatten().nonzero()[:, 0]

    # -- a frame ---------------------------------------------------------------------------------

    def run(self, now: Frame, decides: bool = False) -> None:
        """Decides, computes what is open, and rewrites what changed."""
        self._density, self._looked = [0.0] * now.slots, [0.0] * now.slots
        if self.keep_masks:
            self.opened.zero_()
        if not (self.x.live or now.any_due or any(m.live for m in self.adds)):
            return None
        where: Tensor | None = None
        y: Tensor | None = None
        if self._fixed is not None and not now.any_due:
            where = self._fixed
        elif self.x.live and not (now.any_due and bool(now.due.all())):
            mask = touched(self.x.dirty, self.patches, self.flat)
            if now.any_due:
                mask.view(now.slots, -1)[now.due] = False
            where, y = self._open(mask.nonzero()[:, 0])
            if decides and now.cut is not None and where.numel():
                where, y = self._cut(where, y, now)
        if now.any_due:
            slots = now.due.nonzero()[:, 0]
            self._whole(slots, begins=True)
            for s in slots.tolist():
                self._density[s] = 1.0
                self._looked[s] = self._looked[s] if decides else 0.0
                if self.keep_masks:
                    self.opened[s] = True
        if where is not None and where.numel():
            self._note(where)
            if y is None and where.numel() == self.blocks and not self.previous:
                return self._whole(torch.arange(self.slots), begins=False)
            if y is None:
                y = self._convolve(where, self.previous)
            if self.z is None:
                rows = self.writes.index_select(0, where).flatten()
                self.output.write_rows(rows, activate(y, self.op.activation))
                return None
            if self.previous:
                y = self.z.index_select(0, where) + y.view(where.numel(), -1)
            self.z.index_copy_(0, where, y.view(where.numel(), -1))
        else:
            where = y = None
        if self.z is not None:
            self._rewrite(now, where, y)
        return None

    def _rewrite(self, now: Frame, where: Tensor | None, z: Tensor | None) -> None:
        """Outputs from what is held, where that or an addition changed.

        Args:
            now: the frame.
            where: blocks that were computed, or None.
            z: what is now held there.
        """
        assert self.z is not None
        live = [m for m in self.adds if m.live]
        if live:
            mask = torch.zeros(self.blocks, dtype=torch.bool, device=self.reads.device)
            for m in live:
                mask |= touched(m.dirty, self.reads, self.flat_reads)
            if where is not None:
                mask[where] = True
            if now.any_due:
                mask.view(now.slots, -1)[now.due] = False  # written already
            more = mask.nonzero()[:, 0]
            if where is None or more.numel() > where.numel():
                where, z = more, None
        if where is None or where.numel() == 0:
            return
        if z is None:
            z = self.z.index_select(0, where)
        out = z.view(-1, self.channels).to(self.dtype)
        if self.op.affine is not None:
            out = affine(out, self.op.affine, -1)
        if self.adds:
            rows = self.reads.index_select(0, where).flatten()
            for m in self.adds:
                part = m.data.index_select(0, rows)
                out = part.add_(out)
        # A result that was computed just now has been copied into what is held.
        out = activate(out, self.op.activation)
        self.output.write_rows(self.writes.index_select(0, where).flatten(), out)

    def _cut(self, where: Tensor, y: Tensor | None, now: Frame) -> tuple[Tensor, Tensor | None]:
        """Slots in which too much is open begin anew."""
        cut = torch.tensor([share > (now.cut or 0) for share in self._shares(where)])
        if not bool(cut.any()):
            return where, y
        now.due |= cut
        now.any_due = True
        rest = ~cut[where // self.cells]
        if y is not None:
            y = y.view(where.numel(), -1)[rest].reshape(-1, self.channels)
        return where[rest], y

    def _shares(self, where: Tensor) -> list[float]:
        """The share of each slot's outputs that lie in these blocks."""
        assert self.share is not None
        if self.slots == 1 and self.even is not None:
            return [where.numel() * self.even]
        if self.slots == 1:
            return [float(self.share.index_select(0, where).sum())]
        sums = torch.zeros(self.slots, dtype=torch.float64)
        return sums.index_add_(0, where // self.cells, self.share[where % self.cells]).tolist()

    def _note(self, where: Tensor) -> None:
        if self.share is None:
            return
        self._density = [a + b for a, b in zip(self._density, self._shares(where), strict=True)]
        if self.keep_masks:
            self.opened.view(-1)[where] = True

    def tally(self, counted: Sequence[bool]) -> None:
        """Adds the last frame's densities, of the slots that count."""
        for s, counts in enumerate(counted):
            if counts:
                self.density_sum += self._density[s]
                self.looked_sum += self._looked[s]

    # -- gates -----------------------------------------------------------------------------------

    def _open(self, where: Tensor) -> tuple[Tensor, Tensor | None]:
        """Blocks that open among those whose input changed; keeps what their gates refer to.

        Returns:
            Their numbers; and the result of the convolution, (n·bh·bw, O), where the gate has
            computed it.
        """
        op = self.op
        if op.gated is None or where.numel() == 0:
            return where, None
        gate, layer = op.gated.gate, op.gated
        if layer.must_know_changed:
            where = self._changed(where)
            if where.numel() == 0:
                return where, None
        count, frame = where.numel(), gate.source == "frame"
        delta = self.previous and not frame
        keep: Tensor | None = None
        if gate.sees == "output":
            norm = cast(NormGate, gate)
            with_bias = not delta and not frame
            keep = self._convolve(where, delta, bias=with_bias or (frame and not self.previous))
            change = keep.to(self.exact)
            if with_bias:
                assert self.z is not None
                change = change - self.z.index_select(0, where).view_as(change)
            elif frame and not self.previous:
                change = change - self.bias
            power = finish_norm(_power(change, norm.p), norm.p, self.channels, norm.normalize)
            score = power.view(count, *self.block)
        else:
            source = self.x.delta if delta else self.x.data
            assert source is not None
            rows = self.patches.index_select(0, where).flatten()
            patches = source.index_select(0, rows).view(count, *self.patch, -1)
            if gate.sees == "linear":
                score = gate.score(patches.permute(0, 3, 1, 2), layer.conv.unpadded())[:, 0]
                if self.linear is not None:
                    keep = score.reshape(count, -1)
                    score = score - self.linear.index_select(0, where).view_as(score)
            else:
                change = patches
                if self.held is not None:
                    keep = patches.view(count, -1)
                    # In the memory of what was held: neither sees the sign.
                    change = self.held.index_select(0, where).view_as(patches).sub_(patches)
                if gate.sees == "magnitude":
                    score = gate.score(change.permute(0, 3, 1, 2), layer.conv.unpadded())[:, 0]
                else:
                    norm = cast(NormGate, gate)
                    power = _power(change, norm.p, own=True).view(count, 1, *self.patch)
                    score = self._input_norm(power, patches.shape[-1])
        if self.valid is not None:
            score = score.masked_fill(~self.valid.index_select(0, where), -math.inf)
        largest = score.amax((-2, -1))[:, None, None, None]
        slot = self.scale if self.slots == 1 else self.scale[where // self.cells]
        opens = gate.decide(largest, slot).flatten().nonzero()[:, 0]
        chosen = where if opens.numel() == count else where.index_select(0, opens)
        if keep is not None and opens.numel() < count:
            keep = keep.view(count, -1).index_select(0, opens)
        if gate.sees == "output":
            assert keep is not None
            if frame and self.previous:  # the change is what is added, not the frame
                return chosen, None
            return chosen, keep.reshape(-1, self.channels)
        for held in (self.held, self.linear):
            if held is not None and keep is not None:
                self._keep(held, chosen, keep)
        return chosen, None

    def _input_norm(self, power: Tensor, channels: int) -> Tensor:
        """(n, 1, Ph, Pw) powers to (n, bh, bw) scores."""
        assert self.op.gated is not None
        gate = cast(InputNormGate, self.op.gated.gate)
        conv = self.op.gated.conv.unpadded()
        # The plain norm; what an output norm multiplies by does not change from frame to frame.
        score = InputNormGate.finish(gate, power, conv, channels)[:, 0]
        return score if self.op.gain == 1 else score * self.op.gain

    def _changed(self, where: Tensor) -> Tensor:
        """Blocks with an output whose receptive field changed; notes how many outputs have."""
        g = self.op.geometry
        rows = self.patches.index_select(0, where).flatten()
        dirty = self.x.dirty.index_select(0, rows).view(-1, 1, *self.patch).float()
        changed = F.max_pool2d(dirty, g.kernel_size, g.stride, 0, g.dilation)[:, 0]
        if self.valid is not None:
            changed = changed * self.valid.index_select(0, where)
        outputs = changed.sum((1, 2), dtype=torch.float64) / (self.size[0] * self.size[1])
        sums = torch.zeros(self.slots, dtype=torch.float64)
        sums.index_add_(0, where // self.cells, outputs)
        self._looked = [a + b for a, b in zip(self._looked, sums.tolist(), strict=True)]
        return where[changed.amax((1, 2)) > 0]

    # -- computing -------------------------------------------------------------------------------

    def _convolve(self, where: Tensor, delta: bool, bias: bool | None = None) -> Tensor:
        """The convolution at some blocks: (n·bh·bw, O), in the weights' precision.

        Args:
            where: blocks.
            delta: of the change since the last frame, and not of the input.
            bias: add it; by default where it is not a change that is convolved.
        """
        g, count = self.op.geometry, where.numel()
        shift = self.bias if (not delta if bias is None else bias) else None
        source = self.x.delta if delta else self.x.data
        assert source is not None
        if count > BREAK_EVEN * self.blocks:
            inner = self.x.inner(source)
            y = self._as_blocks(self._image(inner, shift))
            y = y if count == self.blocks else y.index_select(0, where)
            return y.reshape(-1, self.channels)
        if self.columns is not None and not (self.narrow and count * self.reads.shape[1] > MANY):
            rows = self.columns.index_select(0, where).flatten()
            columns = source.index_select(0, rows).view(-1, len(self.matrix))
            return self._product(columns.to(self.matrix.dtype), shift)
        rows = self.patches.index_select(0, where).flatten()
        patches = source.index_select(0, rows).view(count, *self.patch, -1).permute(0, 3, 1, 2)
        y = F.conv2d(
            patches.to(self.weight.dtype), self.weight, shift, g.stride, 0, g.dilation, g.groups
        )
        return y.permute(0, 2, 3, 1).reshape(-1, self.channels)

    def _product(self, columns: Tensor, shift: Tensor | None) -> Tensor:
        if shift is None:
            return columns @ self.matrix
        return torch.addmm(shift, columns, self.matrix)

    def _image(self, inner: Tensor, shift: Tensor | None) -> Tensor:
        """(n, H, W, C) to (n, H', W', O), the whole map."""
        x = inner.permute(0, 3, 1, 2).to(self.weight.dtype)
        return self.op.geometry.convolve(x, self.weight, shift).permute(0, 2, 3, 1)

    def _whole(self, slots: Tensor, begins: bool) -> None:
        """Slots computed in full; where they begin anew, with what their gates refer to."""
        op, every = self.op, len(slots) == self.slots
        inner = self.x.inner(self.x.data)
        inner = inner if every else inner[slots]
        z = self._image(inner, self.bias)
        blocks = (slots[:, None] * self.cells + torch.arange(self.cells)).flatten()
        if op.gated is not None and begins:
            gate, x = op.gated.gate, inner.permute(0, 3, 1, 2)
            response = z
            if isinstance(gate, NormGate) and gate.relative_to == "output":
                response = z.to(self.exact) - self.bias.to(self.exact)
            measured = gate.measure(x, response)
            if measured is not None:
                self.scale[slots] = measured
            if self.held is not None:
                rows = self.flat if every else self.patches.index_select(0, blocks).flatten()
                held = self.x.data.index_select(0, rows).view(len(blocks), -1)
                self._keep(self.held, blocks, held)
            if self.linear is not None:
                linear = gate.score(x, op.gated.conv)[:, 0]
                self._keep(self.linear, blocks, self._as_blocks(linear[..., None]))
        if self.z is not None:
            self._keep(self.z, blocks, self._as_blocks(z))
        out = z.to(self.dtype)
        if op.affine is not None:
            out = affine(out, op.affine, -1)
        for m in self.adds:
            part = m.inner(m.data)
            out = out.add_(part if every else part[slots])
        out = activate(out, op.activation)
        self.output.write(slots, out, changed=not self.output.exact)

    @staticmethod
    def _keep(held: Tensor, blocks: Tensor, new: Tensor) -> None:
        if len(blocks) == len(held):
            held.copy_(new)
        else:
            held.index_copy_(0, blocks, new)

    def _as_blocks(self, y: Tensor) -> Tensor:
        """(n, H', W', C) to (n·Hb·Wb, bh·bw·C), zeros beyond the map."""
        surplus = [self.grid[i] * self.block[i] - self.size[i] for i in (0, 1)]
        if any(surplus):
            y = F.pad(y, (0, 0, 0, surplus[1], 0, surplus[0]))
        y = y.unflatten(2, (self.grid[1], self.block[1]))
        y = y.unflatten(1, (self.grid[0], self.block[0]))
        return y.transpose(2, 3).reshape(len(y) * self.cells, -1)

    # -- moving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """What this layer holds; ``z``, for a check of channels, is its output's."""
        held = {"held": self.held, "linear": self.linear, "kept": self.z, "scale": self.scale}
        tensors = {k: v.clone() for k, v in held.items() if v is not None}
        return {"z": self.output.images.clone()} | tensors

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over :meth:`state_dict`."""
        for name, mine in (
            ("held", self.held),
            ("linear", self.linear),
            ("kept", self.z),
            ("scale", self.scale),
        ):
            if mine is not None:
                mine.copy_(state[name])


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
