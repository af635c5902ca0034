"""The block backend's convolutions: ask the gate, gather, convolve, scatter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.backends.torch_blocks.gates import ChangeGate, gate_of
from skippose.backends.torch_blocks.maps import Tables
from skippose.backends.torch_blocks.nodes import WHOLE, Frame, Maps, Node, tiling
from skippose.ops.geometry import accumulation_dtype
from skippose.plan.operators.conv import Conv
from skippose.plan.operators.pointwise import affine
from skippose.plan.plan import Plan

# Measured on AVX-512, one thread: products of gathered columns run at 70 to 100% of the machine's
# rate from 16 rows on. oneDNN's convolution of gathered patches is as fast with few channels and
# many rows only, and up to ten times slower on 1x1 blocks of 256 channels.
NARROW, MANY = 48, 1024
"""Input channels up to which, and outputs from which on, patches are convolved by oneDNN."""
BREAK_EVEN = 0.85
"""Share of open blocks above which a layer is computed as a whole; masks are kept."""


class ConvNode(Node):
    """One convolution, gated or dense, with what it holds between frames.

    Blocks are numbered slot by slot, row by row; "where" is a list of their numbers, (n,),
    ascending.

    Attributes:
        op: the plan's operation.
        block: (rows, columns) of outputs per block.
        gate: decides which blocks open; None for a dense layer.
        z: (S·H'·W' + 2, O), what is held, where the output alone does not tell; rows as a map's.
        density: by slot, the share of outputs that the last frame computed.
        looked: likewise, of outputs whose receptive field changed.
    """

    def __init__(
        self,
        op: Conv,
        plan: Plan,
        tile: tuple[int, int],
        maps: Maps,
        t: Tables,
        gates: dict[Any, ChangeGate],
    ) -> None:
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
        self.columns = t.columns(x, out, g, self.block) if g.groups == 1 else None
        # Whether a block's patch is the columns of its outputs, as with one output a block.
        self.alike = self.columns is not None and torch.equal(self.columns.flat, self.patches.flat)
        self.writes = t.blocks(out, self.block, beyond=1)
        self.blocks = self.writes.count
        self.every = torch.arange(t.slots, dtype=torch.long, device=plan.device)
        # (S·Hb·Wb, bh, bw): outputs that exist; None if all do.
        last = t.slots * out.height * out.width
        valid = (self.writes.rows <= last).unflatten(1, self.block)
        self.valid = None if bool(valid.all()) else valid
        self.reads = self.writes if self.valid is None else t.blocks(out, self.block)
        # Outputs in each block. Divided last: shares that are equal to a cut must come out so.
        self.sizes = None if op.gated is None else op.block_sizes(self.size).flatten()
        self.even = self.sizes is not None and bool((self.sizes == self.sizes[0]).all())

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

        self.gate = None if op.gated is None else gate_of(self, plan.device, gates)
        self.holds = bool(op.add) or op.affine is not None or self.previous
        self.holds = self.holds or (self.gate is not None and self.gate.needs_output)
        self.z: Tensor | None = None
        if self.holds:
            shape = (len(self.output.data), self.channels)
            self.z = torch.zeros(shape, dtype=self.weight.dtype, device=plan.device)
        self.density = [0.0] * t.slots
        self.looked = [0.0] * t.slots
        self._fixed: Tensor | None = None
        self._where: Tensor | None = None
        self._begun: Tensor | None = None

    @property
    def opened(self) -> Tensor:
        """(S, Hb, Wb) bool, new memory: blocks that opened when it last ran."""
        mask = torch.zeros((self.slots, *self.grid), dtype=torch.bool, device="cpu")
        if self._where is not None:
            mask.view(-1)[self._where] = True
        if self._begun is not None:
            mask[self._begun] = True
        return mask

    @property
    def imposed(self) -> bool:
        """Whether a mask is imposed on it."""
        return self._fixed is not None

    def fix_mask(self, mask: Tensor | None) -> bool:
        """Computes these blocks, (S, Hb, Wb) bool, instead of asking; None asks the gate again.

        Returns:
            Whether a mask is taken away without another.
        """
        before = self._fixed
        self._fixed = None if mask is None else mask.flatten().nonzero()[:, 0]
        return before is not None and self._fixed is None

    # -- a frame ---------------------------------------------------------------------------------

    def run(self, now: Frame, decides: bool = False) -> None:
        """Decides, computes what is open, and rewrites what changed."""
        self.density, self.looked = [0.0] * now.slots, [0.0] * now.slots
        self._where = self._begun = None
        live = self.x.live or any(m.live for m in self.adds)
        if not (live or now.any_due or self._fixed is not None):
            return None
        where: Tensor | None = None
        y: Tensor | None = None
        patches: Tensor | None = None
        if self._fixed is not None:
            where = self._fixed
            if now.any_due:
                where = where[~now.due[where // self.cells]]
        elif self.x.live and not (now.any_due and bool(now.due.all())):
            if self.gate is None:
                where = self.touched(now)
            else:
                where, patches, y, looked = self.gate.opens(now)
                self.looked = looked or self.looked
            if decides and now.cut is not None and where.shape[0]:
                where, y = self._cut(where, y, now)
                patches = None
        if now.any_due:
            slots = now.due.nonzero()[:, 0]
            self._whole(slots, begins=True)
            self._begun = slots
            for s in slots.tolist():
                self.density[s] = 1.0
                self.looked[s] = self.looked[s] if decides else 0.0
        rows: Tensor | None = None
        if where is not None and where.shape[0]:
            self._note(where)
            if y is None and where.shape[0] == self.blocks and not self.previous:
                return self._whole(self.every, begins=False)
            if y is None:
                y = self.convolve(where, self.previous, patches=patches)
            rows = self.writes.of(where)
            if self.z is None:
                self.output.write_rows(rows, self.op.activation(y))
                return None
            if self.previous:
                y = y.add_(self.held_output(where))
            self.z.index_copy_(0, rows, y)
        else:
            where = y = None
        if self.z is not None:
            self._rewrite(now, where, rows, y)
        return None

    def touched(self, now: Frame) -> Tensor:
        """Blocks whose input changed, of slots that are not due."""
        mask = self.patches.touched(self.x.dirty)
        if now.any_due:
            mask.view(now.slots, -1)[now.due] = False
        return mask.nonzero().view(-1)

    def _rewrite(
        self, now: Frame, where: Tensor | None, rows: Tensor | None, z: Tensor | None
    ) -> None:
        """Outputs from what is held, where that or an addition changed.

        Args:
            now: the frame.
            where: blocks that were computed, or None.
            rows: where they are written.
            z: what is now held there.
        """
        live = [m for m in self.adds if m.live]
        if any(m.whole for m in live) and not now.any_due:
            return self._rewrite_all()
        if live:
            mask = self.reads.touched(live[0].dirty)
            for m in live[1:]:
                mask |= self.reads.touched(m.dirty)
            if where is not None:
                mask.index_fill_(0, where, True)
            if now.any_due:
                mask.view(now.slots, -1)[now.due] = False  # written already
            more = mask.nonzero().view(-1)
            if more.shape[0] > WHOLE * self.blocks and not now.any_due:
                return self._rewrite_all()
            if where is None or more.shape[0] > where.shape[0]:
                where, rows, z = more, None, None
        if where is None or where.shape[0] == 0:
            return
        assert self.z is not None
        if rows is None:
            rows = self.writes.of(where)
        if z is None:
            z = self.held_output(where)
        out = z.to(self.dtype)
        if self.op.affine is not None:
            out = affine(out, self.op.affine, -1)
        if self.adds:
            read = rows if self.valid is None else self.reads.of(where)
            for m in self.adds:
                out = m.data.index_select(0, read).add_(out)
        # A result that was computed just now has been copied into what is held.
        self.output.write_rows(rows, self.op.activation(out))

    def _rewrite_all(self) -> None:
        """All outputs from what is held and the additions."""
        assert self.z is not None
        table = self.output.blank() if self.output.replaces else torch.empty_like(self.output.data)
        out, z = table[:-2], self.z[:-2].to(self.dtype)
        if self.op.affine is not None:
            z = affine(z, self.op.affine, -1)
        for m in self.adds:
            z = torch.add(m.data[:-2], z, out=out)
        self.op.activation.into(z, out)
        if self.output.replaces:
            self.output.replace(table)
        else:
            new = out.view(self.slots, *self.size, self.channels)
            self.output.write(self.every, new, changed=not self.output.exact)

    def held_output(self, where: Tensor) -> Tensor:
        """What is held at some blocks, (n·bh·bw, O)."""
        assert self.z is not None
        return self.z.index_select(0, self.reads.of(where))

    def _cut(self, where: Tensor, y: Tensor | None, now: Frame) -> tuple[Tensor, Tensor | None]:
        """Slots in which too much is open begin anew."""
        above = [share > (now.cut or 0) for share in self._shares(where)]
        cut = torch.tensor(above, dtype=torch.bool, device="cpu")
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
        assert self.sizes is not None
        if self.slots == 1 and self.even:
            return [where.shape[0] / self.cells]
        outputs = self.size[0] * self.size[1]
        if self.slots == 1:
            return [float(self.sizes.index_select(0, where).sum()) / outputs]
        sums = torch.zeros(self.slots, dtype=torch.float64, device="cpu")
        sums.index_add_(0, where // self.cells, self.sizes[where % self.cells])
        return sums.div_(outputs).tolist()

    def _note(self, where: Tensor) -> None:
        if self.sizes is None:
            return
        self._where = where
        self.density = [a + b for a, b in zip(self.density, self._shares(where), strict=True)]

    # -- computing -------------------------------------------------------------------------------

    def convolve(
        self,
        where: Tensor,
        delta: bool,
        bias: bool | None = None,
        patches: Tensor | None = None,
    ) -> Tensor:
        """The convolution at some blocks: (n·bh·bw, O), new memory, in the weights' precision.

        Args:
            where: blocks.
            delta: of the change since the last frame, and not of the input.
            bias: add it; by default where it is not a change that is convolved.
            patches: (n, Ph·Pw·C), the blocks' input, if it has been gathered.
        """
        g, count = self.op.geometry, where.shape[0]
        shift = self.bias if (not delta if bias is None else bias) else None
        source = self.x.delta if delta else self.x.data
        assert source is not None
        if count > BREAK_EVEN * self.blocks:
            y = self._image(self.x.inner(source), shift).reshape(-1, self.channels)
            if self.valid is not None:
                y = F.pad(y, (0, 0, 0, 2))
            return y.index_select(0, self.reads.of(where))
        pixels = count * self.block[0] * self.block[1]
        if self.columns is not None and not (self.narrow and pixels > MANY):
            # Gathered anew from the map they are there as soon as cut out of patches.
            if patches is None or not self.alike:
                patches = source.index_select(0, self.columns.of(where))
            columns = patches.view(pixels, -1).to(self.matrix.dtype)
            return columns @ self.matrix if shift is None else shift.addmm(columns, self.matrix)
        if patches is None:
            patches = source.index_select(0, self.patches.of(where))
        patches = patches.view(count, *self.patch, -1).permute(0, 3, 1, 2).to(self.weight.dtype)
        y = F.conv2d(patches, self.weight, shift, g.stride, 0, g.dilation, g.groups)
        return y.permute(0, 2, 3, 1).reshape(pixels, self.channels)

    def _image(self, inner: Tensor, shift: Tensor | None) -> Tensor:
        """(n, H, W, C) to (n, H', W', O), the whole map."""
        x = inner.permute(0, 3, 1, 2).to(self.weight.dtype)
        return self.op.geometry.convolve(x, self.weight, shift).permute(0, 2, 3, 1)

    def _whole(self, slots: Tensor, begins: bool) -> None:
        """Slots computed in full; where they begin anew, with what their gates refer to."""
        every = slots.shape[0] == self.slots
        inner = self.x.inner(self.x.data)
        inner = inner if every else inner[slots]
        z = self._image(inner, self.bias)
        if self.gate is not None and begins:
            self.gate.begin(slots, inner, z)
        if self.z is not None:
            self._hold(slots, z)
        z = z.to(self.dtype)
        if every and not self.output.compares:
            self._finish(z, slots, self.output.take())
        elif every and self.output.replaces and not begins:
            table = self.output.blank()
            self._finish(z, slots, self.output.inner(table))
            self.output.replace(table)
        else:
            out = torch.empty_like(z, memory_format=torch.contiguous_format)
            self._finish(z, slots, out)
            self.output.write(slots, out, changed=not self.output.exact, begins=begins)

    def _hold(self, slots: Tensor, z: Tensor) -> None:
        """Whole slots, (n, H', W', O), into what is held."""
        assert self.z is not None
        held = self.output.inner(self.z)
        if slots.shape[0] == self.slots:
            held.copy_(z)
        else:
            held[slots] = z

    def _finish(self, z: Tensor, slots: Tensor, out: Tensor) -> None:
        """What follows the convolution, on whole slots: (n, H', W', O) into ``out``."""
        every = slots.shape[0] == self.slots
        if self.op.affine is not None:
            z = affine(z, self.op.affine, -1)
        for m in self.adds:
            part = m.inner(m.data)
            z = torch.add(z, part if every else part[slots], out=out)
        self.op.activation.into(z, out)

    # -- moving ----------------------------------------------------------------------------------

    def held(self) -> dict[str, Tensor]:
        """What must be known of the frames before, beside the maps; in its own memory."""
        held = {} if self.gate is None else self.gate.held_by_name()
        return held if self.z is None else held | {"kept": self.z[:-2]}
