"""From recorded operations to fused ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from skippose.plan.plan import (
    NONE,
    Conv,
    ConvTranspose,
    FuseSum,
    Linear,
    Mul,
    Op,
    Pointwise,
    Upsample,
    Value,
)


def fuse(ops: Sequence[Op], values: Sequence[Value], outputs: Sequence[int]) -> list[Op]:
    """Operations joined with those that read nothing but their output.

    Batch norm goes into weights, unless a gate looks at the response; then sums take in nearest
    upsampling and sums, a convolution takes in the addition after it, and everything the
    activation after it.

    Args:
        ops: in the order in which they ran.
        values: all maps.
        outputs: values that the network returns, which stay.

    Returns:
        Fused operations, in an order in which they can run.
    """
    fused = list(ops)
    for rule in (_fold_affine, _upsampled_sum, _longer_sum, _added_to_conv, _activate):
        fused = _apply(rule, fused, values, outputs)
    return fused


def _apply(rule, ops: Sequence[Op], values: Sequence[Value], outputs: Sequence[int]) -> list[Op]:  # type: ignore[no-untyped-def]
    """Lets a rule join each operation with the sole producer of one of its inputs."""
    readers = Counter(v for op in ops for v in op.inputs) + Counter(outputs)
    kept: dict[int, Op] = {}  # by output, in order
    for op in ops:
        now = op
        for value in op.inputs:
            producer = kept.get(value)
            if producer is None or readers[value] != 1:
                continue
            joined = rule(producer, now, values)
            if joined is not None:
                del kept[value]
                now = joined
        kept[now.output] = now
    return list(kept.values())


def _fold_affine(producer: Op, op: Op, values: Sequence[Value]) -> Op | None:
    if not isinstance(op, Pointwise) or op.affine is None:
        return None
    scale, shift = op.affine
    if isinstance(producer, Pointwise) and producer.affine is not None:
        first_scale, first_shift = producer.affine
        affine = (first_scale * scale, first_shift * scale + shift)
        return replace(op, inputs=producer.inputs, affine=affine)
    if isinstance(producer, Conv):
        if producer.sees_response:
            if producer.affine is not None:
                first_scale, first_shift = producer.affine
                scale, shift = first_scale * scale, first_shift * scale + shift
            return replace(producer, output=op.output, affine=(scale, shift))
        weight = producer.weight * scale[:, None, None, None]
    elif isinstance(producer, Linear):
        weight = producer.weight * scale[:, None]
    elif isinstance(producer, ConvTranspose):
        grouped = producer.weight.unflatten(0, (producer.groups, -1))
        per_group = scale.reshape(producer.groups, 1, -1, 1, 1)
        weight = (grouped * per_group).flatten(0, 1)
    else:
        return None
    bias = producer.bias * scale + shift
    return replace(producer, output=op.output, weight=weight, bias=bias)


def _upsampled_sum(producer: Op, op: Op, values: Sequence[Value]) -> Op | None:
    """Nearest upsampling by whole numbers, within a sum."""
    if not isinstance(op, FuseSum) or not isinstance(producer, Upsample):
        return None
    source, target = values[producer.inputs[0]], values[producer.output]
    rows, columns = target.height // source.height, target.width // source.width
    exact = (source.height * rows, source.width * columns) == (target.height, target.width)
    scales = producer.scales or (rows, columns)
    if (
        producer.mode != "nearest"
        or not exact
        or not all(math.isclose(a, b) for a, b in zip(scales, (rows, columns), strict=True))
    ):
        return None
    i = op.inputs.index(producer.output)
    return _with_terms(op, i, producer.inputs, ((rows, columns),))


def _longer_sum(producer: Op, op: Op, values: Sequence[Value]) -> Op | None:
    """A sum whose first term is a sum; the order of additions stays."""
    if not isinstance(op, FuseSum) or not isinstance(producer, FuseSum) or producer.activation:
        return None
    if producer.output != op.inputs[0]:
        return None
    return _with_terms(op, 0, producer.inputs, producer.factors)


def _with_terms(
    op: FuseSum, i: int, inputs: tuple[int, ...], factors: tuple[tuple[int, int], ...]
) -> FuseSum:
    return replace(
        op,
        inputs=op.inputs[:i] + inputs + op.inputs[i + 1 :],
        factors=op.factors[:i] + factors + op.factors[i + 1 :],
    )


def _added_to_conv(producer: Op, op: Op, values: Sequence[Value]) -> Op | None:
    """A sum of two maps as they are, one of them straight from a convolution."""
    if not isinstance(op, FuseSum) or op.activation or len(op.inputs) != 2:
        return None
    plain = all(factor == (1, 1) for factor in op.factors)
    if not plain or not isinstance(producer, Conv) or producer.add:
        return None
    if op.inputs[0] == op.inputs[1]:
        return None
    other = op.inputs[1 - op.inputs.index(producer.output)]
    if other > producer.output:
        # It would have to wait for what the network computes after it; the first gated layer, which
        # decides about cuts, must not.
        return None
    return replace(producer, inputs=(*producer.inputs, other), output=op.output)


def _activate(producer: Op, op: Op, values: Sequence[Value]) -> Op | None:
    if not isinstance(op, Pointwise) or op.affine is not None or op.activation == NONE:
        return None
    takes = (Conv, ConvTranspose, Linear, FuseSum, Mul, Pointwise)
    if not isinstance(producer, takes) or producer.activation:
        return None
    return replace(producer, output=op.output, activation=op.activation)
