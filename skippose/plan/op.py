"""What an operator is, and what a plan and its backends ask of one.

An operator is a class in a file of its own: how it is traced from ATen, its form on whole maps,
what it can be joined with, its MACs, and how it is lowered to native code. The files are in
``skippose/plan/operators``; every file of that folder is found there. One of your own may stand
anywhere::

    from skippose.plan.op import Op
    from skippose.plan.registry import register

    @register("pixel_shuffle")
    @dataclass(frozen=True)
    class PixelShuffle(Op):
        factor: int

        @classmethod
        def trace(cls, graph, a, out):
            x = graph.value(a["self"])
            graph.add(out, lambda v: cls((x,), v, factor=a["upscale_factor"]))

        def whole(self, inputs, out):
            return F.pixel_shuffle(inputs[0], self.factor)

It must be imported before the network is captured. Everything else has a default: backends compute
it as a whole whenever an input changed, and the native one, which needs code in C++, refuses it by
its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from torch import Tensor

from skippose.ops import GatedConvolution
from skippose.plan.activation import NONE, Activation
from skippose.plan.errors import BackendError
from skippose.plan.examples import Example

Stage = Literal["affine", "terms", "addition", "activation"]
"""What may be joined, in this order: see :mod:`skippose.plan.fuse`."""
Arguments = dict[str, Any]
"""Those of an ATen operation by name, defaults included."""
Node = TypeVar("Node", covariant=True)


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
        id: its place in :attr:`skippose.plan.plan.Plan.values`.
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

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    def as_output(self, x: Tensor) -> Tensor:
        """(S, C, H, W) as the network returns it: flat values as (S, C)."""
        return x.flatten(1) if self.flat else x


class GraphBuilder(Protocol):
    """What tracing an ATen operation may do to the plan that is being recorded."""

    def id_of(self, tensor: Any) -> int | None:
        """A tensor's value, None if it is no function of the frame."""

    def value(self, tensor: Any) -> int:
        """A tensor's value.

        Raises:
            Unsupported: if it is no function of the frame.
        """

    def add(self, result: Tensor, make: Callable[[int], Op]) -> None:
        """Appends the operation that ``make`` gives for the id of the value that it writes."""

    def same(self, tensor: Tensor, result: Tensor) -> None:
        """``result`` is another name of a value."""

    def key_of(self, weight: Tensor) -> Key:
        """The layer that a weight belongs to, and its call."""


class NodeBuilder(Protocol[Node]):
    """How a backend computes operations that it tells apart by where they can be cut."""

    def whole(self, op: Op) -> Node:
        """One that is computed as a whole."""

    def pixelwise(self, op: Pixelwise) -> Node:
        """One of which every pixel is computed by itself."""

    def convolution(self, op: Any) -> Node:
        """A :class:`skippose.plan.operators.conv.Conv`, the one operator that may have a gate."""


class NativeBuilder(Protocol):
    """Takes operations for the native library; ``backends/native`` implements it.

    Raises:
        BackendError: from its methods, for what the library does not have, named.
    """

    def value(self, id: int) -> Value:
        """A value of the plan."""

    def element(self, op: Op, kind: str, **fields: Any) -> None:
        """An operation that is computed pixel by pixel, from what the pixel reads.

        Its inputs, output, level and activation are known from ``op``.

        Args:
            op: the operation.
            kind: a member of ``SkpKind`` in ``interface.def``.
            **fields: of ``SkpElement``: numbers, sequences of them, and tensors.
        """

    def convolution(
        self,
        op: Op,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        steps: tuple[int, int] = (1, 1),
        at: tuple[int, int] = (0, 0),
        add: Sequence[int] = (),
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """A convolution, and the gate of ``op`` if it has one.

        Args:
            op: the operation; its first input is convolved.
            weight: (O, C / groups, kh, kw).
            bias: (O,).
            stride: (rows, columns).
            padding: zeros (above, to the left); may be negative.
            dilation: (rows, columns).
            groups: of channels.
            steps: (rows, columns) of the output map from one output to the next.
            at: (row, column) of the first output there.
            add: values to add, of the output's size.
            affine: (scale, shift), each (O,), before the additions.
        """


@dataclass(frozen=True)
class Op(ABC):
    """One operation of a plan.

    Attributes:
        inputs: ids of the values that it reads.
        output: id of the value that it writes; every value is written once in a frame.
        level: operations of one level are independent; inputs come from lower levels.
        key: the layer whose weights it has, and its call; None for what has no weights.
        activation: of the result.
    """

    inputs: tuple[int, ...]
    output: int
    level: int = field(default=0, kw_only=True)
    key: Key | None = field(default=None, kw_only=True)
    activation: Activation = field(default=NONE, kw_only=True)

    takes_activation: ClassVar[bool] = False
    """Whether the activation that follows it may become its own."""

    # -- what it computes ------------------------------------------------------------------------

    @classmethod
    def trace(cls, graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        """Adds the operation that an ATen function of :func:`register` is in a plan.

        Args:
            graph: the plan that is being recorded.
            a: the function's arguments by name.
            out: its result.

        Raises:
            Unsupported: for arguments that have no place in a plan.
        """
        raise NotImplementedError(f"{cls.__name__} does not say how it is traced")

    @abstractmethod
    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        """The operation on whole maps, activation apart; a convolution as if it had no gate.

        Args:
            inputs: (S, C, H, W) each, left as they are; flat values as (S, C, 1, 1).
            out: the value that it writes.

        Returns:
            (S, C', H', W'), new memory.
        """

    def apply(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        """The same with its activation."""
        return self.activation(self.whole(inputs, out))

    @property
    def gated(self) -> GatedConvolution | None:
        """What its gate decides about; None where everything is computed."""
        return None

    @property
    def label(self) -> str:
        """What a table calls it."""
        return type(self).__name__

    def macs(self, values: Sequence[Value]) -> int:
        """Multiply-accumulates in a dense frame of one slot; ``values`` are the plan's."""
        return 0

    # -- what it can be joined with --------------------------------------------------------------

    def join(self, producer: Op, stage: Stage, values: Sequence[Value]) -> Op | None:
        """One operation in place of ``producer`` and this one, the only reader of its output.

        Args:
            producer: writes one of this operation's inputs.
            stage: what is being joined.
            values: the plan's.

        Returns:
            An operation that writes what this one writes, or None.
        """
        return None

    def with_affine(self, scale: Tensor, shift: Tensor) -> Op | None:
        """``scale · self + shift`` per channel, each (C,), as one operation; None if it cannot."""
        return None

    def with_addition(self, other: int) -> Op | None:
        """``self + other`` as one operation; None if it cannot."""
        return None

    def with_activation(self, activation: Activation) -> Op | None:
        """``activation(self)`` as one operation; None if it cannot."""
        if not self.takes_activation or self.activation:
            return None
        return replace(self, activation=activation)

    def terms(
        self, values: Sequence[Value], first: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]] | None:
        """What a sum may add up in place of its result.

        Args:
            values: the plan's.
            first: whether that stands first in the sum. Only then the order of additions stays if
                several values take its place.

        Returns:
            Values, and by how many (rows, columns) each is repeated; None if there are none.
        """
        return None

    # -- how backends run it ---------------------------------------------------------------------

    def place(self, builder: NodeBuilder[Node]) -> Node:
        """What a backend makes of it: calls one method of the builder."""
        return builder.whole(self)

    def lower(self, builder: NativeBuilder) -> None:
        """Describes it to the native library: calls the builder's methods.

        Raises:
            BackendError: if the library does not have it.
        """
        raise BackendError(f"the native engine has no operation {self.label!r}")

    # -- how it is tested ------------------------------------------------------------------------

    @classmethod
    def examples(cls) -> dict[str, Example]:
        """By name, networks that have this operator in their plan, with their usual weights."""
        raise NotImplementedError(f"{cls.__name__} gives no example of itself")


class Pixelwise(Op):
    """An operation of which every output pixel depends on one pixel of each input."""

    @property
    def repeats(self) -> tuple[tuple[int, int], ...]:
        """By how many (rows, columns) each input is repeated, nearest, to the output's size.

        Inputs of one pixel are spread over all of it.
        """
        return ((1, 1),) * len(self.inputs)

    @abstractmethod
    def pixels(self, parts: Sequence[Tensor], channels: int) -> Tensor:
        """The operation, activation apart, on the same pixels of all inputs.

        Args:
            parts: alike but for their channels and for dimensions of 1, left as they are.
            channels: the channels' dimension.

        Returns:
            New memory.
        """

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        parts = []
        for x, (rows, columns) in zip(inputs, self.repeats, strict=True):
            if (rows, columns) != (1, 1):
                x = x.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
            parts.append(x)
        return self.pixels(parts, 1)

    def place(self, builder: NodeBuilder[Node]) -> Node:
        return builder.pixelwise(self)
