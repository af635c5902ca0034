"""From recorded operations to fused ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from skippose.plan.op import Op, Stage, Value


def fuse(ops: Sequence[Op], values: Sequence[Value], outputs: Sequence[int]) -> list[Op]:
    """Operations joined with those that read nothing but their output.

    Batch norm goes into weights, unless a gate looks at the response; then sums take in nearest
    upsampling and sums, a convolution takes in the addition after it, and everything the
    activation after it. Which operator does what is asked of the operators: see :meth:`Op.join`.

    Args:
        ops: in the order in which they ran.
        values: all maps.
        outputs: values that the network returns, which stay.

    Returns:
        Fused operations, in an order in which they can run.
    """
    fused = list(ops)
    for stage in get_args(Stage):
        fused = _join(stage, fused, values, outputs)
    return fused


def _join(
    stage: Stage, ops: Sequence[Op], values: Sequence[Value], outputs: Sequence[int]
) -> list[Op]:
    """Lets each operation be joined with the sole producer of one of its inputs."""
    readers = Counter(v for op in ops for v in op.inputs) + Counter(outputs)
    kept: dict[int, Op] = {}  # by output, in order
    for op in ops:
        now = op
        for value in op.inputs:
            producer = kept.get(value)
            if producer is None or readers[value] != 1:
                continue
            joined = now.join(producer, stage, values)
            if joined is not None:
                del kept[value]
                now = joined
        kept[now.output] = now
    return list(kept.values())
