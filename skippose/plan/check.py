"""Whether a plan is the network: two recorded passes, against each other and against the plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from skippose.ops.geometry import accumulation_dtype
from skippose.plan.errors import CaptureError
from skippose.plan.op import Op
from skippose.plan.plan import Plan
from skippose.plan.recorder import Recorder


def another_frame(frame: Tensor) -> Tensor:
    """Noise like one slot of a frame, of its mean and spread: (1, C, H, W).

    It comes from a generator of its own: the user's random numbers are the same afterwards.
    """
    exact = accumulation_dtype(frame.dtype)
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(frame[:1].shape, generator=generator, dtype=exact, device="cpu")
    noise, seen = noise.to(frame.device), torch.nan_to_num(frame[:1].to(exact))
    spread = seen.std(correction=0)
    return (seen.mean() + noise * torch.where(spread > 0, spread, 1.0)).to(frame.dtype)


def check_same(first: Recorder, second: Recorder) -> None:
    """Whether two passes recorded the same operations with the same constants, bit by bit.

    Raises:
        CaptureError: naming the first operation that differs.
    """
    before = "the frame"
    for i, (a, b) in enumerate(zip(first.ops, second.ops, strict=False), 1):
        name = f"operation {i} ({a.label})"
        if type(a) is not type(b):
            raise CaptureError(f"{name}, after {before}: in another frame it is {b.label}")
        for field in fields(a):
            if not _same(getattr(a, field.name), getattr(b, field.name)):
                raise CaptureError(
                    f"{name}, after {before}: its {field.name} differs from frame to frame (is "
                    "something counted, timed or drawn outside of torch?)"
                )
        before = name
    facts = {
        "number of operations": (len(first.ops), len(second.ops)),
        "shapes": (first.values, second.values),
        "layers' costs": (first.costs, second.costs),
        "outputs": ((first.outputs, first.tree), (second.outputs, second.tree)),
    }
    for what, (one, other) in facts.items():
        if one != other:
            raise CaptureError(f"what comes after {before}: the {what} differ from frame to frame")


def _same(a: Any, b: Any) -> bool:
    """Whether two fields of an operation are the same."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return _equal(a, b)
    if isinstance(a, nn.Module):  # gates
        return a is b
    if is_dataclass(a):
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b or (a != a and b != b))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_set_to(b):
        return True  # a parameter's own memory
    return bool(((a == b) | ((a != a) & (b != b))).all())


def check_values(plan: Plan, recorder: Recorder, frame: Tensor) -> None:
    """Whether every operation of a plan gives what it gave in the network, within rounding.

    Each is run on whole maps, on the inputs that it had there, so that rounding does not add up.

    Args:
        plan: of the network.
        recorder: of a pass of the network.
        frame: (1, C, H, W), that of the pass.

    Raises:
        CaptureError: naming the first operation that differs.
    """
    own = {0: frame}  # what the network has written over since
    for op in plan.ops:
        inputs = [own[v] if (x := recorder.map_of(v)) is None else x for v in op.inputs]
        found, expected = op.apply(inputs, plan.values[op.output]), recorder.map_of(op.output)
        if expected is None:
            own[op.output] = found
        elif worst := _beyond_rounding(found, expected, partial(_terms, op, inputs)):
            raise CaptureError(
                f"{_named(op)} gives other values in a plan than in the network: {worst}"
            )


def _named(op: Op) -> str:
    return f"operation {op.label}" + (f" of layer {op.key.name!r}" if op.key is not None else "")


def _beyond_rounding(found: Tensor, expected: Tensor, terms: Callable[[], float]) -> str:
    """What to say of two results that are not the same within rounding; nothing otherwise.

    A fused operation differs from its parts by some units in the last place of what is added up:
    that is a small share of the largest result, or, where results cancel out, of their terms.
    """
    if found.shape != expected.shape:
        return f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
    share = _tolerance(expected)
    off, largest = _largest(found - expected), _largest(expected)
    if math.isfinite(largest) and off <= share * largest:
        return ""
    there = expected.isfinite()  # half precision overflows
    off, largest = (_largest(torch.where(there, x, 0.0)) for x in (found - expected, expected))
    exact = torch.finfo(accumulation_dtype(expected.dtype)).eps
    if off <= share * largest + 4 * exact * terms():
        return ""
    return f"{off:.3g} off where the largest is {largest:.3g}"


def _terms(op: Op, inputs: Sequence[Tensor]) -> float:
    """The most that the terms of one result can add up to, signs apart; 0 where none are added."""
    first, *adds = map(_largest, inputs)
    weight, bias = getattr(op, "weight", None), getattr(op, "bias", None)
    affine = getattr(op, "affine", None)
    if weight is not None and bias is not None:
        first = _largest(weight.abs().flatten(1).sum(1)) * first + _largest(bias)
    if affine is not None:
        first = _largest(affine[0]) * first + _largest(affine[1])
    return first + sum(adds)


def _largest(x: Tensor) -> float:
    """The largest magnitude."""
    return float(x.abs().amax())


def _tolerance(x: Tensor) -> float:
    """By which share of the largest result two may differ."""
    dtype = x.dtype
    if x.is_cuda and dtype == torch.float32:
        dtype = torch.float16  # as coarse as TF32
    least = 1e-9 if dtype == torch.float64 else 2e-4
    return max(16 * torch.finfo(dtype).eps, least)
