"""Gates: what decides where a convolution runs. One file each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from skippose.gates.base import GATES, Gate, register_gate
from skippose.gates.gumbel import GumbelGate, Sampled
from skippose.gates.gumbel_norm import GumbelNormGate
from skippose.gates.norm import ExactNormGate, InputNormGate, NormGate, OutputNormGate

for _module in iter_modules(__path__):  # every file registers its gates
    import_module(f"{__name__}.{_module.name}")


def build_gate(gate: Gate | Mapping[str, Any] | None) -> Gate | None:
    """A gate from a config: ``dict(type='InputNormGate', eps=0.1, block=4)``.

    Gates and None are returned as they are.

    Raises:
        KeyError: for an unknown ``type``.
        TypeError: for an argument that the gate does not take, or something that is no config.
    """
    if gate is None or isinstance(gate, Gate):
        return gate
    if not isinstance(gate, Mapping):
        raise TypeError(f"a gate is a Gate, a dict with a 'type', or None; got {gate!r}")
    arguments = dict(gate)
    name = arguments.pop("type", None)
    if name not in GATES:
        raise KeyError(f"unknown gate type {name!r}; there are {', '.join(GATES)}")
    try:
        return GATES[name](**arguments)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error


__all__ = [
    "GATES",
    "ExactNormGate",
    "Gate",
    "GumbelGate",
    "GumbelNormGate",
    "InputNormGate",
    "NormGate",
    "OutputNormGate",
    "Sampled",
    "build_gate",
    "register_gate",
]
