"""The flat plan of a captured network: what the fast engines run.

A plan is a list of operations on *values*, the maps between them. Batch norm is folded away,
activations and residual additions are part of the operation before them, and operations of one
``level`` do not depend on each other. :func:`skippose.plan.capture.capture` makes plans.

Equal to the step form, up to rounding: ``hold`` selects and ``previous`` adds, both channel by
channel, so a per-channel scale and shift may be applied before or after them; and gates see what
they see in the network, a convolution's input or its unscaled response.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from skippose.gates import Gate
from skippose.ops import ConvGeometry, Convolution, GatedConvolution, Reference
from skippose.ops.gate_spec import GateSpec
from skippose.report import LayerCost

ActivationKind = Literal[
    "none", "relu", "clamp", "leaky_relu", "hardswish", "hardsigmoid", "sigmoid", "silu", "tanh"
]


class Key(NamedTuple):
    """What state belongs to: a layer's name in the network, and its call within the frame."""

    name: str
    call: int

    def __str__(self) -> str:
        return f"{self.name}#{self.call}"


@dataclass(frozen=True)
class Value:
    """A map (S, channels, height, width) between operations.

    Attributes:
        id: its place in :attr:`Plan.values`.
        channels: C, or the number of features of a flat value.
        height: H; 1 for a flat value.
        width: W; 1 for a flat value.
        flat: (S, channels) in the network, from flatten or a linear layer.
    """

    id: int
    channels: int
    height: int = 1
    width: int = 1
    flat: bool = False


@dataclass(frozen=True)
class Activation:
    """An element-wise function; ``low`` and ``high`` are those of clamp, ``low`` leaky's slope."""

    kind: ActivationKind = "none"
    low: float = 0.0
    high: float = 0.0

    def __bool__(self) -> bool:
        return self.kind != "none"

    def __str__(self) -> str:
        return f"clamp({self.low:g}, {self.high:g})" if self.kind == "clamp" else self.kind


NONE = Activation()


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        inputs: ids of the values that it reads.
        output: id of the value that it writes; every value is written once in a frame.
        level: operations of one level are independent; inputs come from lower levels.
    """

    inputs: tuple[int, ...]
    output: int
    level: int = field(default=0, kw_only=True)

    local: ClassVar[bool] = True
    """Whether an output location depends on a neighbourhood of the input only."""

    @property
    def label(self) -> str:
        """What a table calls it."""
        return type(self).__name__


@dataclass(frozen=True)
class Conv(Op):
    """``act(affine(w * x + b) + add)``, gated or dense; inputs are (x, \\*add).

    What is held or accumulated between frames is the convolution, ``w * x + b`` with these
    weights; affine, additions and activation are applied to what is held. With ``affine`` the
    weights are the layer's own: the gate looks at its response. Otherwise batch norm is folded
    into them.

    Attributes:
        key: of the state.
        geometry: kernel size, stride, padding (left, right, top, bottom), dilation, groups, mode.
        weight: (O, C / groups, kh, kw) in float32, or float64 for a float64 network.
        bias: (O,) alike; zeros where there is none.
        affine: per-channel (scale, shift), each (O,); or None.
        gated: the layer's operation: its own weights, gate, reference and (rows, columns) of
            outputs per block. None for a dense layer.
        activation: after everything else.
        cost: index of its row in :attr:`Plan.costs`, or None where it is not counted.
    """

    key: Key
    geometry: ConvGeometry
    weight: Tensor
    bias: Tensor
    affine: tuple[Tensor, Tensor] | None = None
    gated: GatedConvolution | None = None
    activation: Activation = NONE
    cost: int | None = None

    @property
    def add(self) -> tuple[int, ...]:
        """Values added before the activation."""
        return self.inputs[1:]

    @property
    def gate(self) -> Gate | None:
        """The layer's gate."""
        return None if self.gated is None else self.gated.gate  # type: ignore[return-value]

    @property
    def spec(self) -> GateSpec | None:
        """What its gate compares; None where the gate must be asked through its own methods."""
        return None if self.gated is None else self.gated.spec

    @property
    def sees_response(self) -> bool:
        """Whether its gate needs ``w * x`` with the layer's own weights; any unknown gate may."""
        return self.gated is not None and (self.spec is None or self.spec.needs_response)

    def convolution(self, dtype: torch.dtype) -> Convolution:
        """What runs, for maps of this dtype; updates are computed in the accumulators'."""
        if self.reference == "previous":
            return Convolution(self.weight, self.bias, self.geometry)
        return Convolution(self.weight.to(dtype), self.bias.to(dtype), self.geometry)

    @property
    def reference(self) -> Reference:
        """``'hold'`` or ``'previous'``."""
        return "hold" if self.gated is None else self.gated.reference

    @property
    def block(self) -> tuple[int, int]:
        """(rows, columns) of outputs per decision; (1, 1) for a dense layer."""
        return (1, 1) if self.gated is None else self.gated.block

    @property
    def label(self) -> str:
        kernel = "x".join(map(str, self.geometry.kernel_size))
        parts = [f"conv {kernel}/{self.geometry.stride[0]}"]
        parts += [f"groups {self.geometry.groups}"] * (self.geometry.groups > 1)
        parts += ["affine"] * (self.affine is not None) + ["add"] * bool(self.add)
        return " + ".join(parts + [str(self.activation)] * bool(self.activation))


@dataclass(frozen=True)
class ConvTranspose(Op):
    """A transposed convolution, dense; the arguments are those of ``F.conv_transpose2d``."""

    key: Key
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)
    activation: Activation = NONE
    local = False


@dataclass(frozen=True)
class Linear(Op):
    """``x Wᵀ + b`` on a flat value, dense. weight (O, F), bias (O,)."""

    key: Key
    weight: Tensor
    bias: Tensor
    activation: Activation = NONE
    local = False


@dataclass(frozen=True)
class FuseSum(Op):
    """``act(Σ up(input))``, from left to right.

    Attributes:
        factors: (rows, columns) by which each input is repeated (nearest), (1, 1) for as it is.
        activation: of the sum.
    """

    factors: tuple[tuple[int, int], ...]
    activation: Activation = NONE

    @property
    def label(self) -> str:
        ups = ", ".join(f"x{rows}" for rows, _ in self.factors)
        return f"sum({ups})" + f" + {self.activation}" * bool(self.activation)


@dataclass(frozen=True)
class Pointwise(Op):
    """``act(scale · x + shift)``, per channel; ``affine`` is (scale, shift), each (C,), or None."""

    affine: tuple[Tensor, Tensor] | None = None
    activation: Activation = NONE

    @property
    def label(self) -> str:
        return " + ".join(["affine"] * (self.affine is not None) + [str(self.activation)])


@dataclass(frozen=True)
class Mul(Op):
    """``act(a · b)``; either may be a 1x1 map, which is spread over the other."""

    activation: Activation = NONE


@dataclass(frozen=True)
class Pool(Op):
    """Maximum or mean over windows.

    Attributes:
        kind: ``'max'`` or ``'avg'``.
        geometry: windows as those of a convolution; padding symmetric. Maxima ignore padding.
        ceil_mode: windows may begin within the padding's far side.
        count_include_pad: means divide by the whole window.
        divisor: what means divide by instead, or None.
    """

    kind: Literal["max", "avg"]
    geometry: ConvGeometry
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    @property
    def label(self) -> str:
        kernel = "x".join(map(str, self.geometry.kernel_size))
        return f"{self.kind} pool {kernel}/{self.geometry.stride[0]}"


@dataclass(frozen=True)
class GlobalPool(Op):
    """Mean over the whole map, to 1x1 or to a flat value."""

    local = False


@dataclass(frozen=True)
class Upsample(Op):
    """``F.interpolate`` to the output's size.

    Attributes:
        mode: ``'nearest'`` or ``'bilinear'``.
        align_corners: of bilinear.
        scales: (rows, columns) that torch computes places with, or None: the ratio of the sizes.
    """

    mode: Literal["nearest", "bilinear"]
    align_corners: bool = False
    scales: tuple[float, float] | None = None
    local = False

    @property
    def label(self) -> str:
        return f"upsample {self.mode}"


@dataclass(frozen=True)
class Concat(Op):
    """Channels one after the other."""


@dataclass(frozen=True)
class Flatten(Op):
    """(S, C, H, W) to (S, C·H·W), channels outermost as in the network."""

    local = False


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
    def convs(self) -> tuple[Conv, ...]:
        """All convolutions, in the order of ``ops``."""
        return tuple(op for op in self.ops if isinstance(op, Conv))

    @property
    def gated(self) -> tuple[Conv, ...]:
        """The gated ones."""
        return tuple(op for op in self.convs if op.gated is not None)

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

    def __str__(self) -> str:
        from skippose.plan.table import table

        return table(self)


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
        least = next(of_value[o.output] for o in ops if isinstance(o, Conv) and o.key == decider)
    for op in ops:
        gated = isinstance(op, Conv) and op.gated is not None and op.key != decider
        numbered.append(visit(op, least if gated else 0))
    return tuple(sorted(numbered, key=lambda op: op.level))
