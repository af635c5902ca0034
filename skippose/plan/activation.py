"""Element-wise functions that an operation may apply to its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ActivationKind:
    """A function; ``skippose.plan.operators.activations`` registers them.

    Attributes:
        name: what tables and the native backend call it.
        in_place: ``(x, low, high)`` to the result; may overwrite ``x``, any shape, and return it.
        into: ``(x, low, high, out)`` writes the result into ``out``, another tensor, and leaves
            ``x`` as it is; None where copying first is as fast.
        shown: its label in tables, formatted with ``low`` and ``high``; the name by default.
    """

    name: str
    in_place: Callable[[Tensor, float, float], Tensor]
    into: Callable[[Tensor, float, float, Tensor], object] | None = None
    shown: str = ""


@dataclass(frozen=True)
class Activation:
    """An element-wise function with its parameters.

    Attributes:
        kind: which function.
        low: its first parameter, as clamp's lower bound and leaky ReLU's slope.
        high: its second one, as clamp's upper bound.
    """

    kind: ActivationKind
    low: float = 0.0
    high: float = 0.0

    def __bool__(self) -> bool:
        return self != NONE

    def __str__(self) -> str:
        return (self.kind.shown or self.kind.name).format(low=self.low, high=self.high)

    def __call__(self, x: Tensor) -> Tensor:
        """The activation of ``x``, any shape; ``x`` may be overwritten."""
        return self.kind.in_place(x, self.low, self.high)

    def into(self, x: Tensor, out: Tensor) -> None:
        """The activation of ``x`` into ``out``; ``x`` stays as it is unless it is ``out``."""
        if out is not x:
            if self.kind.into is not None:
                self.kind.into(x, self.low, self.high, out)
                return
            out.copy_(x)
        result = self(out)
        if result is not out:
            out.copy_(result)


def _identity(x: Tensor, low: float, high: float) -> Tensor:
    return x


NONE = Activation(ActivationKind("none", _identity))
"""No activation."""
