"""The flat plan of a captured network: what the fast backends run.

A plan is a list of operations on *values*, the maps between them. Batch norm is folded away,
activations and residual additions are part of the operation before them, and operations of one
``level`` do not depend on each other. :func:`skippose.plan.capture.capture` makes plans.

Equal to the step form, up to rounding: ``hold`` selects and ``previous`` adds, both channel by
channel, so a per-channel scale and shift may be applied before or after them; and gates see what
they see in the network, a convolution's input or its unscaled response.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import torch

from skippose.ops.masks import block_for_map
from skippose.plan.op import Key, Op, Value
from skippose.plan.operators.conv import Conv
from skippose.report import LayerCost

TILE = 4
"""Rows and columns of a tile on the map at a quarter of the frame's size."""


@dataclass(frozen=True)
class Plan:
    """A captured network for frames of one size.

    Attributes:
        values: all of them; ``values[0]`` is the frame.
        ops: in an order in which they can run; levels ascend.
        outputs: ids of the network's outputs, in the order of ``tree``.
        tree: how they are nested, a ``torch.utils._pytree.TreeSpec``.
        costs: the report's rows, in the order in which the network calls its layers, sums empty.
        decider: index in ``ops`` of the first gated call, which cuts depend on. Every other gated
            operation has a higher level.
        dtype: of the frame and of all values.
        device: of the weights.
    """

    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    tree: Any
    costs: tuple[LayerCost, ...]
    decider: int | None
    dtype: torch.dtype
    device: torch.device

    @property
    def frame(self) -> Value:
        """The network's input."""
        return self.values[0]

    @property
    def gated(self) -> tuple[Conv, ...]:
        """The gated convolutions, in the order of ``ops``."""
        return tuple(cast(Conv, op) for op in self.ops if op.gated is not None)

    @property
    def calls(self) -> set[str]:
        """Their keys, ``name#call``."""
        return {str(op.key) for op in self.gated}

    def levels(self) -> Iterator[tuple[Op, ...]]:
        """Operations that do not depend on each other, level after level."""
        for _, group in groupby(self.ops, key=lambda op: op.level):
            yield tuple(group)

    def scale(self, value: int) -> float:
        """Rows of the frame per row of a value."""
        return self.frame.height / self.values[value].height

    def tile(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) in which a map of this size is cut where no gate says in which blocks."""
        return block_for_map(TILE, "scaled", size, self.frame.size)

    def __str__(self) -> str:
        """One line for each operation: level, what it is, of which layer, from and to which maps.

        The last line counts operations, levels and the MACs of a dense frame.
        """
        rows = [("level", "operation", "layer", "from", "to", "MMACs", "block")]
        blocks = {op.output: "x".join(map(str, op.block)) for op in self.gated}
        for op in self.ops:
            out, macs = self.values[op.output], op.macs(self.values)
            size = str(out.channels) if out.flat else f"{out.channels}x{out.height}x{out.width}"
            rows.append(
                (
                    str(op.level),
                    op.label,
                    str(op.key or ""),
                    " ".join(f"v{v}" for v in op.inputs),
                    f"v{op.output} {size}",
                    f"{macs / 1e6:.3f}" if macs else "",
                    blocks.get(op.output, ""),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
        ]
        macs = sum(op.macs(self.values) for op in self.ops)
        lines.append(
            f"{len(self.ops)} operations in {len(list(self.levels()))} levels, "
            f"{macs / 1e9:.4g} GMACs for a dense frame of {self.frame.height}x{self.frame.width}"
        )
        return "\n".join(line.rstrip() for line in lines)


def with_levels(ops: list[Op], decider: Key | None) -> tuple[Op, ...]:
    """Operations, given in an order in which they can run, numbered and sorted by level.

    Gated convolutions other than the decider come after it: it may make their slot dense.
    """
    of_value: dict[int, int] = {0: 0}
    numbered: list[Op] = []

    def visit(op: Op, least: int) -> Op:
        level = max([of_value[v] for v in op.inputs] + [least]) + 1
        of_value[op.output] = level
        return replace(op, level=level)

    least = 0
    if decider is not None:
        for op in ops:
            visit(op, 0)
        least = next(of_value[o.output] for o in ops if o.gated is not None and o.key == decider)
    for op in ops:
        gated = op.gated is not None and op.key != decider
        numbered.append(visit(op, least if gated else 0))
    return tuple(sorted(numbered, key=lambda op: op.level))
