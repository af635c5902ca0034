"""A network's skip convolutions: what they are called, and whether they ran."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable

import torch.fx
from torch import nn

from skippose.layers.skip_conv import SkipConv2d

_COMPILED = "_orig_mod"
"""Where ``torch.compile`` keeps the module that it wraps."""
_said: set[str] = set()


def original(net: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` wrapped; any other as it is."""
    return getattr(net, _COMPILED, net)


def plain_name(name: str) -> str:
    """A module's name as it is without ``torch.compile``."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def module_names(net: nn.Module) -> dict[nn.Module, str]:
    """What the modules of a network are called in reports and saved states."""
    return {module: plain_name(name) for name, module in net.named_modules()}


def gated_layers(net: nn.Module) -> dict[str, SkipConv2d]:
    """The layers with gates, by name."""
    return {
        name: module
        for module, name in module_names(net).items()
        if isinstance(module, SkipConv2d) and module.gate is not None
    }


def is_program(net: nn.Module) -> bool:
    """Whether a network was traced, scripted or exported, and its convolutions are no modules."""
    program = isinstance(net, torch.jit.ScriptModule | torch.fx.GraphModule)
    return program and not any(isinstance(module, nn.Conv2d) for module in net.modules())


def require_gated(net: nn.Module) -> None:
    """Checks that a network has gated layers.

    Raises:
        ValueError: if it has none; says why.
    """
    if gated_layers(net):
        return
    name = type(original(net)).__name__
    without = sum(isinstance(module, SkipConv2d) for module in net.modules())
    if is_program(net):
        raise ValueError(
            f"{name} is traced, scripted or exported, and has no gated convolution: gates are not "
            "part of such a program; give the network that it was made from"
        )
    if without:
        raise ValueError(
            f"{name} has no gated convolution: its {without} skip convolutions have no gate; give "
            "them one with skippose.convert"
        )
    raise ValueError(f"{name} has no gated convolution; make it one with skippose.convert")


def check_ran(
    nets: Iterable[nn.Module], ran: Collection[nn.Module], elsewhere: Iterable[str] = ()
) -> None:
    """Names the gated layers that a pass did not see: in a warning, once, where it saw others.

    Args:
        nets: the networks that ran in the pass, as far as it knows them.
        ran: all gated layers that it saw.
        elsewhere: names of those that ran in other threads meanwhile.

    Raises:
        ValueError: if it saw none, and the networks have some.
    """
    layers: dict[SkipConv2d, str] = {}
    owner: nn.Module | None = None
    for net in nets:
        for name, layer in gated_layers(net).items():
            layers.setdefault(layer, name)
            if layer not in ran:
                owner = owner or net
    if owner is None:
        return
    missing = [name for layer, name in layers.items() if layer not in ran]
    name = type(original(owner)).__name__
    if not ran:
        raise ValueError(
            f"none of the {len(layers)} gated layers of {name} ran: {_listed(missing)}. "
            f"{not_seen(elsewhere)}"
        )
    message = (
        f"{len(missing)} of the {len(layers)} gated layers of {name} did not run: "
        f"{_listed(missing)}. That is right where {name} does not call them, as those of an "
        f"auxiliary head. {not_seen(elsewhere)}"
    )
    if message not in _said:
        _said.add(message)
        warnings.warn(message, stacklevel=2)


def not_seen(elsewhere: Iterable[str] = ()) -> str:
    """Why a pass may not see a layer that ran."""
    reason = (
        "A pass sees the skip convolutions that a network calls as its modules, in the thread of "
        "the pass. It sees none whose forward was replaced; none in a traced or scripted program "
        "(convert before, and run the network itself); and not the ordinary convolution from "
        "before the conversion, where a list, a bound method or a closure still holds it (call "
        "the module by its attribute)"
    )
    if names := list(elsewhere):
        reason += f". In other threads there ran, densely: {_listed(names)}"
    return reason


def _listed(names: list[str]) -> str:
    """Up to five names."""
    return ", ".join(map(repr, names[:5])) + ", ..." * (len(names) > 5)
