"""The block backend's operations without a gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from skippose.backends.torch_blocks.maps import Map, Tables
from skippose.plan.op import Op, Pixelwise
from skippose.plan.plan import Plan

Maps = dict[int, Map]

WHOLE = 0.5
"""Share of a map's tiles above which an element-wise operation takes the whole map."""


@dataclass
class Frame:
    """What operations must know of the frame that they run for.

    Attributes:
        due: (S,) bool, slots computed in full; cuts are added on the way.
        slots: S.
        cut: density above which the first gated layer makes its slot due.
        any_due: whether any is.
    """

    due: Tensor
    slots: int
    cut: float | None = None
    any_due: bool = False


def tiling(size: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of tiles that cover a map."""
    return ceil(size[0] / tile[0]), ceil(size[1] / tile[1])


class Node(ABC):
    """Computes one operation of a plan."""

    @abstractmethod
    def run(self, now: Frame, decides: bool = False) -> None:
        """Recomputes what may have changed; ``decides``: cuts depend on its gate."""


class LocalNode(Node):
    """An operation of which every pixel is computed by itself, on tiles that changed."""

    def __init__(
        self, op: Pixelwise, plan: Plan, tile: tuple[int, int], maps: Maps, t: Tables
    ) -> None:
        self.op, self.out = op, plan.values[op.output]
        factors = op.repeats
        self.inputs, self.output = [maps[v] for v in op.inputs], maps[op.output]
        self.reads = [
            t.spread(m.value, self.out, factor, tile)
            for m, factor in zip(self.inputs, factors, strict=True)
        ]
        self.writes = t.blocks(self.out, tile, beyond=1)
        self.most = WHOLE * self.writes.count
        # Every pixel of the whole map; None where that is the input as it is.
        self.pixels = [
            t.spread(m.value, self.out, factor, (1, 1)).flat
            if (m.value.height, m.value.width) != (self.out.height, self.out.width)
            else None
            for m, factor in zip(self.inputs, factors, strict=True)
        ]
        self.slots = torch.arange(t.slots, dtype=torch.long, device=plan.device)

    def run(self, now: Frame, decides: bool = False) -> None:
        """Recomputes tiles with a changed input."""
        live = [i for i, m in enumerate(self.inputs) if m.live]
        if now.any_due:
            if bool(now.due.all()):
                return self._whole()
        elif not live:
            return None
        elif any(self.inputs[i].whole for i in live):
            return self._whole()
        touched = [self.reads[i].touched(self.inputs[i].dirty) for i in live]
        if live:
            mask = touched[0]
        else:
            mask = torch.zeros(self.writes.count, dtype=torch.bool, device="cpu")
        for more in touched[1:]:
            mask |= more
        if now.any_due:
            mask.view(now.slots, -1)[now.due] = True
        where = mask.nonzero().view(-1)
        if where.shape[0] > self.most:
            return self._whole()
        if where.shape[0]:
            rows = [windows.of(where) for windows in self.reads]
            self.output.write_rows(self.writes.of(where), self._compute(rows))

    def _whole(self) -> None:
        y = self._compute(self.pixels)
        shape = (len(self.slots), self.out.height, self.out.width, -1)
        self.output.write(self.slots, y.view(shape), changed=not self.output.exact)

    def _compute(self, rows: Sequence[Tensor | None]) -> Tensor:
        """(n, C), new memory, from these rows of each input; None for all pixels."""
        parts = [
            m.data[:-2] if r is None else m.data.index_select(0, r)
            for m, r in zip(self.inputs, rows, strict=True)
        ]
        return self.op.activation(self.op.pixels(parts, -1))


class DenseNode(Node):
    """Everything else, as a whole whenever anything changed."""

    def __init__(self, op: Op, plan: Plan, maps: Maps, slots: int) -> None:
        self.op, self.out = op, plan.values[op.output]
        self.inputs, self.output = [maps[v] for v in op.inputs], maps[op.output]
        self.slots = torch.arange(slots, dtype=torch.long, device=plan.device)

    def run(self, now: Frame, decides: bool = False) -> None:
        """Recomputes the map."""
        if now.any_due or any(m.live for m in self.inputs):
            y = self.op.apply([m.images for m in self.inputs], self.out)
            self.output.write(self.slots, y.permute(0, 2, 3, 1))
