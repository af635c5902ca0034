"""The activations: each is one entry, with its form in torch and what it is in ATen.

In native code it needs a line in ``interface.def``, under the same name, and a case of
``activate1`` in ``kernels_impl.h``; without them the native backend refuses it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.plan.activation import Activation, ActivationKind
from skippose.plan.op import Arguments, GraphBuilder
from skippose.plan.operators.pointwise import Pointwise
from skippose.plan.registry import Trace, traces
from skippose.plan.tracing import require

Bound = float | str
"""A parameter: a number, or the name of the ATen function's argument."""
ACTIVATIONS: dict[str, ActivationKind] = {}
"""By name."""


def activation(
    name: str,
    aten: Mapping[str, tuple[Bound, Bound]],
    into: Callable[[Tensor, float, float, Tensor], object] | None = None,
    shown: str = "",
) -> Callable[[Callable[[Tensor, float, float], Tensor]], ActivationKind]:
    """A decorator that registers an activation; see :class:`ActivationKind` for its function.

    Args:
        name: also of the member of ``SkpAct`` in ``interface.def``.
        aten: ATen functions that it comes from, each with what ``low`` and ``high`` are there.
        into: see :class:`ActivationKind`.
        shown: likewise.

    Raises:
        ValueError: if the name, or one of ``aten``, is registered already.
    """

    def decorate(in_place: Callable[[Tensor, float, float], Tensor]) -> ActivationKind:
        if name in ACTIVATIONS:
            raise ValueError(f"there is an activation {name!r} already")
        kind = ActivationKind(name, in_place, into, shown)
        for function, bounds in aten.items():
            traces(function)(_trace(kind, *bounds))
        ACTIVATIONS[name] = kind
        return kind

    return decorate


def _trace(kind: ActivationKind, low: Bound, high: Bound) -> Trace:
    def trace(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        bounds = []
        for bound, infinite in ((low, -torch.inf), (high, torch.inf)):
            b = a[bound] if isinstance(bound, str) else bound
            number = not isinstance(b, Tensor) or (b.numel() == 1 and graph.id_of(b) is None)
            require(number, "bounds that are no numbers")
            bounds.append(infinite if b is None else float(b))
        x, act = graph.value(a["self"]), Activation(kind, *bounds)
        graph.add(out, lambda v: Pointwise((x,), v, activation=act))

    return trace


@activation(
    "relu",
    {"relu": (0.0, 0.0)},
    into=lambda x, low, high, out: torch.clamp_min(x, 0, out=out),
)
def relu(x: Tensor, low: float, high: float) -> Tensor:
    """``max(x, 0)``."""
    return x.relu_()


@activation(
    "clamp",
    {
        "clamp": ("min", "max"),
        "clamp_min": ("min", torch.inf),
        "hardtanh": ("min_val", "max_val"),
        "relu6": (0.0, 6.0),
    },
    shown="clamp({low:g}, {high:g})",
)
def clamp(x: Tensor, low: float, high: float) -> Tensor:
    """``min(max(x, low), high)``."""
    return x.clamp_(low, high)


@activation("leaky_relu", {"leaky_relu": ("negative_slope", 0.0)})
def leaky_relu(x: Tensor, low: float, high: float) -> Tensor:
    """``x`` above 0, ``low · x`` below."""
    return F.leaky_relu_(x, low)


@activation("hardswish", {"hardswish": (0.0, 0.0)})
def hardswish(x: Tensor, low: float, high: float) -> Tensor:
    """``x · hardsigmoid(x)``."""
    return F.hardswish(x, inplace=True)


@activation("hardsigmoid", {"hardsigmoid": (0.0, 0.0)})
def hardsigmoid(x: Tensor, low: float, high: float) -> Tensor:
    """``clamp((x + 3) / 6, 0, 1)``."""
    return F.hardsigmoid(x, inplace=True)


@activation("sigmoid", {"sigmoid": (0.0, 0.0)})
def sigmoid(x: Tensor, low: float, high: float) -> Tensor:
    """``1 / (1 + exp(-x))``."""
    return x.sigmoid_()


@activation("silu", {"silu": (0.0, 0.0)})
def silu(x: Tensor, low: float, high: float) -> Tensor:
    """``x · sigmoid(x)``."""
    return F.silu(x, inplace=True)


@activation("tanh", {"tanh": (0.0, 0.0)})
def tanh(x: Tensor, low: float, high: float) -> Tensor:
    """The hyperbolic tangent."""
    return x.tanh_()
