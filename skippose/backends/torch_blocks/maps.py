"""Where the block backend keeps values: tables of pixels, read and written by row number.

A value is a table with one row of channels per pixel of every slot. Blocks and patches are lists
of row numbers, made once: a gather or scatter is then one indexing of whole rows, several times
faster than indexing a view. Padding is in the row numbers too, whatever its mode.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from skippose.ops import ConvGeometry
from skippose.ops.geometry import accumulation_dtype
from skippose.plan.op import Value

POINT = ConvGeometry((1, 1))


def row_power(change: Tensor, p: float, out: Tensor | None = None) -> Tensor:
    """``Σ_c |change|^p``, or its maximum: (..., C) to (...), in float32 or better.

    ``change`` may be overwritten by its absolute values.
    """
    dtype = accumulation_dtype(change.dtype)
    if p == 1:
        return torch.sum(change.abs_(), -1, dtype=dtype, out=out)
    # Squares and their sums are several times faster than torch.linalg.vector_norm on a CPU.
    power = change.to(dtype).square().sum(-1) if p == 2 else change.abs_().amax(-1).to(dtype)
    return power if out is None else out.copy_(power)


@dataclass
class Map:
    """One value of all slots.

    Attributes:
        value: what it is in the plan.
        data: (S·H·W + 2, C): pixels; a row of zeros, for padding; a row that takes what is written
            beyond the map.
        dirty: (S·H·W + 2,) uint8, 1 where this frame's value may differ from the last one's;
            where it is 0 it does not.
        live: whether any is.
        whole: whether all pixels count as changed.
        exact: whether ``dirty`` must be exact: a gate counts what changed.
        slack: share of a pixel's largest channel within which a value counts as the one before,
            and stays that: sums that were added in another order differ by rounding.
        delta: like ``data``, the change since the last frame, for readers that need it.
        powers: by p, (S·H·W + 2,): :func:`row_power` of the change since the last frame, 0 where
            nothing was written or the slot begins anew.
        measures: whether ``powers`` are kept now.
    """

    value: Value
    data: Tensor
    dirty: Tensor
    exact: bool = False
    slack: float = 0.0
    live: bool = False
    whole: bool = False
    delta: Tensor | None = None
    powers: dict[float, Tensor] = field(default_factory=dict)
    measures: bool = True
    _written: list[Tensor | None] = field(default_factory=list)

    def inner(self, table: Tensor) -> Tensor:
        """``data``, ``dirty`` or ``delta`` as (S, H, W[, C]), a view."""
        return table[:-2].unflatten(0, (-1, self.value.height, self.value.width))

    @property
    def images(self) -> Tensor:
        """(S, C, H, W), a view."""
        return self.inner(self.data).permute(0, 3, 1, 2)

    def measured(self, p: float) -> Tensor:
        """:attr:`powers` of this p, kept from now on."""
        if p not in self.powers:
            exact = accumulation_dtype(self.data.dtype)
            self.powers[p] = self.data.new_zeros(len(self.data), dtype=exact)
        return self.powers[p]

    def begin(self) -> None:
        """A new frame; ``dirty`` is cleared by whoever owns its memory."""
        self.live = self.whole = False
        for power in self.powers.values():
            power.zero_()
        if self.delta is not None:
            for rows in self._written:
                if rows is None:
                    self.delta.zero_()
                else:
                    self.delta.index_fill_(0, rows, 0)
            self._written.clear()

    @property
    def compares(self) -> bool:
        """Whether new values are compared with old ones; else :meth:`take` may be used."""
        return self.exact or self.delta is not None or (self.measures and bool(self.powers))

    def take(self) -> Tensor:
        """Where to put new values of the whole map, (S, H, W, C), a view; all count as changed."""
        self.dirty.fill_(1)
        self.live = self.whole = True
        return self.inner(self.data)

    @property
    def replaces(self) -> bool:
        """Whether :meth:`replace` may be used where all slots are written."""
        return not self.exact and self.delta is None

    def blank(self) -> Tensor:
        """A table for :meth:`replace`, its pixels not yet written."""
        table = torch.empty_like(self.data)
        table[-2:].zero_()
        return table

    def replace(self, table: Tensor) -> None:
        """Takes a table of all slots in place of the one before; all pixels count as changed."""
        before, self.data = self.data, table
        self.dirty.fill_(1)
        self.live = self.whole = True
        if self.powers and self.measures:
            change = before[:-2].sub_(table[:-2])
            for p, power in self.powers.items():
                row_power(change, p, power[:-2])

    def _differs(self, new: Tensor, old: Tensor) -> Tensor:
        """(..., C) twice to (...) bool; a NaN differs."""
        if not self.slack:
            return (new != old).any(-1)
        return ~((new - old).abs().amax(-1) <= self.slack * new.abs().amax(-1))

    def write(
        self, slots: Tensor, new: Tensor, changed: bool = False, begins: bool = False
    ) -> None:
        """Whole slots, (n, H, W, C).

        ``changed`` marks them all without looking; ``begins``: no gate asks how far they changed.
        """
        inner, dirty = self.inner(self.data), self.inner(self.dirty)
        every = len(slots) == len(inner)
        old = inner if every else inner[slots]
        if changed and every:
            self.dirty.fill_(1)
            self.live = self.whole = True
        elif changed:
            dirty[slots] = 1
            self.live = True
        else:
            differs = self._differs(new, old)
            if self.slack:
                new = torch.where(differs[..., None], new, old)
            dirty[slots] = differs.to(torch.uint8)
            self.live = self.live or bool(differs.any())
        change: Tensor | None = None
        if self.delta is not None:
            self._written.append(None)
            change = new.to(self.delta.dtype) - old.to(self.delta.dtype)
            self.inner(self.delta)[slots] = change
        if self.powers and self.measures and not begins:
            change = new - old if change is None else change
            for p, power in self.powers.items():
                if every:
                    self.inner(power).copy_(row_power(change, p))
                else:
                    self.inner(power)[slots] = row_power(change, p)
        if every:
            inner.copy_(new)
        else:
            inner[slots] = new

    def write_rows(self, rows: Tensor, new: Tensor) -> None:
        """Single pixels, (n, C)."""
        if self.compares:
            old = self.data.index_select(0, rows)
        if self.exact:
            differs = self._differs(new, old)
            self.dirty.index_copy_(0, rows, differs.to(torch.uint8))
            self.live = self.live or bool(differs.any())
            if self.slack:
                new = torch.where(differs[:, None], new, old)
        else:
            self.dirty.index_fill_(0, rows, 1)
            self.live = True
        self.data.index_copy_(0, rows, new)
        change: Tensor | None = None
        if self.delta is not None:
            self._written.append(rows)
            exact = self.delta.dtype
            change = new.to(exact) - old.to(exact)
            self.delta.index_copy_(0, rows, change)
        if self.powers and self.measures:
            change = old.sub_(new) if change is None else change
            for p, power in self.powers.items():
                power.index_copy_(0, rows, row_power(change, p))


class Windows:
    """Row numbers of windows, in the order (slot, row, column).

    Attributes:
        rows: (N, m) int64, m pixels each.
        flat: the same in one dimension.
        count: N. (``len`` of a tensor is a slow call.)
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.flat, self.count = rows, rows.view(-1), rows.shape[0]

    def of(self, where: Tensor) -> Tensor:
        """The rows of some windows, whose numbers ascend: (n·m,)."""
        if where.shape[0] == self.count:
            return self.flat
        return self.rows.index_select(0, where).view(-1)

    def touched(self, dirty: Tensor) -> Tensor:
        """(N,) bool, new memory: windows with a dirty pixel."""
        return dirty.index_select(0, self.flat).view(self.rows.shape).amax(1).bool()


class Tables:
    """Windows, made once for all operations that need the same."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.slots, self.device = slots, device
        self._made: dict[tuple[object, ...], Windows] = {}

    def patches(self, value: Value, geometry: ConvGeometry, block: tuple[int, int]) -> Windows:
        """What each block of a convolution's outputs reads, m = Ph·Pw, halo included."""
        key = ("patches", value.height, value.width, geometry, block)
        return self._get(key, value, lambda ids: geometry.patches(ids, block).flatten(3))

    def blocks(self, value: Value, block: tuple[int, int], beyond: int = 0) -> Windows:
        """The pixels of each block, m = bh·bw; ``beyond=1`` for writing."""
        key = ("blocks", value.height, value.width, block, beyond)
        return self._get(key, value, lambda ids: POINT.patches(ids, block).flatten(3), beyond)

    def columns(
        self, value: Value, out: Value, geometry: ConvGeometry, block: tuple[int, int]
    ) -> Windows:
        """What each output of each block reads, m = bh·bw·kh·kw."""
        key = ("columns", value.height, value.width, geometry, block)

        def make(ids: Tensor) -> Tensor:
            columns = geometry.columns(ids)[0, 0].t()  # (H'·W', kh·kw)
            places = self._ids(out.height, out.width)
            at = POINT.patches(places, block).flatten().long() - 1
            return torch.where(at[:, None] < 0, 0.0, columns[at])

        count = self.blocks(out, block).count // self.slots
        return self._get(key, value, lambda ids: make(ids).reshape(count, -1))

    def spread(
        self, value: Value, out: Value, factor: tuple[int, int], block: tuple[int, int]
    ) -> Windows:
        """The input pixel of each output pixel of each block, inputs repeated by ``factor``."""
        key = ("spread", value.height, value.width, out.height, out.width, factor, block)

        def make(ids: Tensor) -> Tensor:
            if (value.height, value.width) == (1, 1):
                ids = ids.expand(1, 1, out.height, out.width)
            ids = ids.repeat_interleave(factor[0], 2).repeat_interleave(factor[1], 3)
            return POINT.patches(ids[:, :, : out.height, : out.width], block).flatten(3)

        return self._get(key, value, make)

    def _get(self, key, value: Value, make, beyond: int = 0) -> Windows:  # type: ignore[no-untyped-def]
        if key not in self._made:
            # Row numbers from 1, so that the zeros of padding are told apart.
            ids = make(self._ids(value.height, value.width))
            one = ids.reshape(-1, ids.shape[-1]).long() - 1
            pixels = value.height * value.width
            start = torch.arange(self.slots, dtype=torch.long, device="cpu")[:, None, None] * pixels
            rows = torch.where(one < 0, self.slots * pixels + beyond, one + start)
            self._made[key] = Windows(rows.flatten(0, 1).contiguous().to(self.device))
        return self._made[key]

    @staticmethod
    def _ids(height: int, width: int) -> Tensor:
        ids = torch.arange(1, height * width + 1, dtype=torch.float64, device="cpu")
        return ids.view(1, 1, height, width)
