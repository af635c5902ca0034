"""Which operators there are, and what each ATen function becomes in a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from skippose.plan.op import Arguments, GraphBuilder, Op

Trace = Callable[[GraphBuilder, Arguments, Tensor], None]
"""As :meth:`Op.trace`."""
T = TypeVar("T", bound=type[Op])
F = TypeVar("F", bound=Trace)

OPERATORS: dict[str, type[Op]] = {}
"""By the name of its class."""
TRACES: dict[str, Trace] = {}
"""By the name of the ATen function, without namespace, overload and a trailing underscore."""


def register(*aten: str) -> Callable[[T], T]:
    """A decorator for a class of operators.

    Args:
        *aten: names of the ATen functions that its ``trace`` takes, as ``"mul"``. None where
            functions with the decorator :func:`traces` do.

    Raises:
        ValueError: if an operator or function of that name is registered already.
    """

    def decorate(operator: T) -> T:
        if OPERATORS.get(operator.__name__, operator) is not operator:
            raise ValueError(f"there is an operator {operator.__name__!r} already")
        traces(*aten)(operator.trace)
        OPERATORS[operator.__name__] = operator
        return operator

    return decorate


def traces(*aten: str) -> Callable[[F], F]:
    """A decorator for functions as :meth:`Op.trace`, for what becomes one operator in several ways.

    Raises:
        ValueError: if a function of that name is registered already.
    """

    def decorate(trace: F) -> F:
        taken = sorted(name for name in aten if name in TRACES)
        if taken:
            raise ValueError(f"it is registered already what {taken} becomes in a plan")
        TRACES.update(dict.fromkeys(aten, trace))
        return trace

    return decorate
