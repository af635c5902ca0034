"""A plan's operations as the library takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from skippose.backends.native.described import Described
from skippose.backends.native.library import (
    ElementKind,
    SkpConv,
    SkpElement,
)
from skippose.backends.native.lower_gate import lower_gate
from skippose.ops.masks import block_for_map
from skippose.plan.errors import BackendError
from skippose.plan.plan import (
    Activation,
    Concat,
    Conv,
    ConvTranspose,
    Flatten,
    FuseSum,
    GlobalPool,
    Linear,
    Mul,
    Op,
    Plan,
    Pointwise,
    Pool,
    Upsample,
)

TILE = 4
"""Tiles of convolutions without a gate, on the map at a quarter of the frame's size."""
MOST_TAPS, MOST_SKIPS, MOST_SOURCES = 512, 4, 8
_ACTIVATIONS = {
    "none": 0,
    "relu": 1,
    "clamp": 2,
    "leaky_relu": 3,
    "sigmoid": 4,
    "silu": 5,
    "hardsigmoid": 6,
    "hardswish": 7,
    "tanh": 8,
}


def describe(plan: Plan) -> Iterator[Described]:
    """All operations, those of gated convolutions with their ``conv``.

    Raises:
        BackendError: for what the library does not have, named.
    """
    for i, op in enumerate(plan.ops):
        if isinstance(op, Conv):
            yield _conv(op, plan, i == plan.decider)
        elif isinstance(op, ConvTranspose):
            yield from _transposed(op, plan)
        elif isinstance(op, Linear):
            yield _dense(plan, op, op.weight[:, :, None, None], op.bias, op.activation)
        else:
            yield _element(op, plan)


def needs_before(plan: Plan) -> set[int]:
    """Values of which the last frame's must be kept: ``previous`` convolves their change."""
    return {op.inputs[0] for op in plan.gated if op.reference == "previous"}


def added(plan: Plan) -> set[int]:
    """Values that convolutions add to their outputs."""
    return {v for op in plan.ops if isinstance(op, Conv) for v in op.add}


def _activation(struct: SkpConv | SkpElement, act: Activation) -> None:
    if act.kind not in _ACTIVATIONS:
        raise BackendError(f"the native engine has no activation {act.kind!r}")
    struct.act, struct.act_a, struct.act_b = _ACTIVATIONS[act.kind], act.low, act.high


def _dense(
    plan: Plan,
    op: Op,
    weight: Tensor,
    bias: Tensor,
    activation: Activation,
    offsets: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    steps: tuple[int, int] = (1, 1),
    at: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Described:
    """A convolution of stride 1 without a gate, whose outputs may lie ``steps`` pixels apart."""
    out = plan.values[op.output]
    made = Described(SkpConv())
    d = cast(SkpConv, made.struct)
    d.input, d.output = op.inputs[0], op.output
    d.kh, d.kw = weight.shape[2:]
    d.sh = d.sw = 1
    d.top, d.left = -offsets[0], -offsets[1]
    d.dh, d.dw = dilation
    d.groups = groups
    d.oh = -(-(out.height - at[0]) // steps[0])
    d.ow = -(-(out.width - at[1]) // steps[1])
    d.step_y, d.step_x = steps
    d.at_y, d.at_x = at
    frame = (plan.frame.height, plan.frame.width)
    d.block_h, d.block_w = block_for_map(TILE, "scaled", (d.oh, d.ow), frame)
    d.level = op.level
    d.gain = 1.0
    channels = plan.values[op.inputs[0]].channels
    d.weight = made.floats(weight, out.channels, channels // groups, d.kh, d.kw)
    d.bias = made.floats(bias, out.channels)
    _activation(d, activation)
    return made


def _transposed(op: ConvTranspose, plan: Plan) -> Iterator[Described]:
    """One convolution for each residue of the outputs' places by the stride."""
    phases = [_taps(op, axis) for axis in (0, 1)]
    channels, per_group = op.weight.shape[:2]
    # (C, O/g, kh, kw) to (O, C/g, kh, kw).
    weight = op.weight.unflatten(0, (op.groups, channels // op.groups)).transpose(1, 2)
    weight = weight.reshape(op.groups * per_group, channels // op.groups, *op.weight.shape[2:])
    for at_y, (rows, first_y, step_y) in enumerate(phases[0]):
        for at_x, (columns, first_x, step_x) in enumerate(phases[1]):
            out = plan.values[op.output]
            if at_y >= out.height or at_x >= out.width:
                continue
            taps = len(rows) * len(columns)
            if taps > MOST_TAPS:
                raise BackendError(
                    f"layer {op.key}: {taps} taps an output; the native engine takes at most "
                    f"{MOST_TAPS}"
                )
            if taps:
                part = weight[:, :, rows][:, :, :, columns]
            else:  # no input reaches these outputs
                part = torch.zeros_like(weight[:, :, :1, :1])
            yield _dense(
                plan,
                op,
                part,
                op.bias,
                op.activation,
                offsets=(first_y, first_x),
                dilation=(step_y, step_x),
                steps=op.stride,
                at=(at_y, at_x),
                groups=op.groups,
            )


def _taps(op: ConvTranspose, axis: int) -> list[tuple[list[int], int, int]]:
    """For each residue: kernel rows that reach it, the first one's offset, the offsets' distance.

    Output ``o`` reads input ``(o + padding - k · dilation) / stride`` where that is whole.
    """
    stride, padding, dilation = op.stride[axis], op.padding[axis], op.dilation[axis]
    found = []
    for residue in range(stride):
        reach = {}
        for k in range(op.weight.shape[2 + axis]):
            offset, rest = divmod(residue + padding - k * dilation, stride)
            if rest == 0:
                reach[offset] = k
        offsets = sorted(reach)
        step = offsets[1] - offsets[0] if len(offsets) > 1 else 1
        found.append(([reach[o] for o in offsets], offsets[0] if offsets else 0, step))
    return found


def _conv(op: Conv, plan: Plan, decides: bool) -> Described:
    g, out = op.geometry, plan.values[op.output]
    if g.padding_mode != "zeros":
        raise BackendError(
            f"layer {op.key}: the native engine pads with zeros, not {g.padding_mode}"
        )
    if math.prod(g.kernel_size) > MOST_TAPS or len(op.add) > MOST_SKIPS:
        raise BackendError(
            f"layer {op.key}: kernel {g.kernel_size} and {len(op.add)} additions; the native "
            f"engine takes at most {MOST_TAPS} taps and {MOST_SKIPS} additions"
        )
    made = _dense(plan, op, op.weight, op.bias, op.activation, dilation=g.dilation, groups=g.groups)
    made.conv = op
    d = cast(SkpConv, made.struct)
    d.sh, d.sw = g.stride
    d.left, _, d.top, _ = g.padding
    d.nskip = len(op.add)
    for i, v in enumerate(op.add):
        if plan.values[v].height != out.height or plan.values[v].width != out.width:
            raise BackendError(f"layer {op.key}: an addition of another size")
        d.skip[i] = v
    if op.affine is not None:
        d.scale, d.shift = (made.floats(c, out.channels) for c in op.affine)
    d.decides_cut = decides
    if op.gated is not None:
        lower_gate(op, d, made)
    return made


def _element(op: Op, plan: Plan) -> Described:
    made = Described(SkpElement())
    d = cast(SkpElement, made.struct)
    x, out = plan.values[op.inputs[0]], plan.values[op.output]
    if len(op.inputs) > MOST_SOURCES:
        raise BackendError(
            f"{op.label} has {len(op.inputs)} inputs, the native engine's limit is 8"
        )
    d.output, d.level, d.nsrc = op.output, op.level, len(op.inputs)
    for i, v in enumerate(op.inputs):
        d.src[i], d.factor_y[i], d.factor_x[i] = v, 1, 1
    _activation(d, getattr(op, "activation", Activation()))
    if isinstance(op, FuseSum):
        d.kind = ElementKind.sum
        for i, (rows, columns) in enumerate(op.factors):
            d.factor_y[i], d.factor_x[i] = rows, columns
    elif isinstance(op, Pointwise):
        d.kind = ElementKind.sum
        if op.affine is not None:
            d.scale, d.shift = (made.floats(c, out.channels) for c in op.affine)
    elif isinstance(op, Mul):
        d.kind = ElementKind.mul
    elif isinstance(op, Concat):
        d.kind = ElementKind.concat
    elif isinstance(op, Flatten):
        d.kind = ElementKind.flatten
    elif isinstance(op, Pool):
        g = op.geometry
        d.kind = ElementKind.max_pool if op.kind == "max" else ElementKind.avg_pool
        d.kh, d.kw = g.kernel_size
        d.sh, d.sw = g.stride
        d.left, _, d.top, _ = g.padding
        d.dh, d.dw = g.dilation
        d.count_padding, d.divisor = op.count_include_pad, op.divisor or 0
    elif isinstance(op, GlobalPool):
        d.kind = ElementKind.avg_pool
        d.kh, d.kw = x.height, x.width
        d.sh = d.sw = d.dh = d.dw = 1
    elif isinstance(op, Upsample):
        d.kind = ElementKind.resize
        scales = op.scales or (None, None)
        for axis, size, to, scale in (
            ("y", x.height, out.height, scales[0]),
            ("x", x.width, out.width, scales[1]),
        ):
            first, second, share = _resize(op, size, to, scale)
            setattr(d, f"first_{axis}", made.ints(first, to))
            setattr(d, f"second_{axis}", made.ints(second, to))
            setattr(d, f"share_{axis}", made.floats(share, to))
    else:
        raise BackendError(f"the native engine has no operation {op.label!r}")
    return made


def _resize(op: Upsample, size: int, to: int, scale: float | None) -> Sequence[Tensor]:
    """Two places that each output reads along one axis, and the second one's share."""
    at = torch.arange(to, dtype=torch.float32, device="cpu")
    ratio = size / to if scale is None else 1 / scale
    if op.mode == "nearest":
        first = (at * ratio).long().clamp_max(size - 1)
        return first, first, torch.zeros_like(at)
    if op.align_corners:
        place = at * ((size - 1) / (to - 1) if to > 1 else 0.0)
    else:
        place = ((at + 0.5) * ratio - 0.5).clamp_min(0)
    first = place.long().clamp_max(size - 1)
    return first, (first + 1).clamp_max(size - 1), place - first
