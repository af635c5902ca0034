"""Turning a network's convolutions into skip convolutions."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from skippose.frames_pass import tell_pass
from skippose.gates import Gate, build_gate
from skippose.layers import ClipConsistent, SkipConv2d, bind_gate, count_macs, module_names
from skippose.layers.dense import COUNTED, is_random
from skippose.layers.network import is_program, original, plain_name
from skippose.layers.skip_conv import why_not_skipped
from skippose.ops import REFERENCES, Reference

GateLike = Gate | Mapping[str, Any] | None
FilterFn = Callable[[nn.Module, str], bool]


def convert(
    net: nn.Module,
    gate: GateLike,
    filter_fn: FilterFn | None = None,
    overrides: Mapping[str, GateLike] | None = None,
    reference: Reference = "hold",
) -> nn.Module:
    """A copy of a network with its convolutions gated; see :func:`convert_`."""
    return convert_(copy.deepcopy(net), gate, filter_fn, overrides, reference)


def convert_(
    net: nn.Module,
    gate: GateLike,
    filter_fn: FilterFn | None = None,
    overrides: Mapping[str, GateLike] | None = None,
    reference: Reference = "hold",
) -> nn.Module:
    """Makes every 2-D convolution of ``net`` a :class:`SkipConv2d`, in place.

    Weights and state-dict keys stay. Other layers with weights are only counted; dropout and drop
    path are wrapped so that they draw once per clip. Nothing is changed if an error is raised.

    Convert a network before it is traced, scripted or exported. A network that is compiled stays
    so; its gated layers are left out of what is compiled, and names are those without the wrapper.

    Args:
        net: any module.
        gate: the template for every layer: a gate, its config, or None (dense, but counted).
        filter_fn: ``(module, name) -> bool``; False leaves a convolution as it is.
        overrides: gates for single layers by name or glob pattern, None leaves them dense. An
            exact name wins over patterns, a later pattern over an earlier one. A layer with
            several names goes by any of them.
        reference: ``'hold'`` or ``'previous'``.

    Returns:
        ``net``; or, if ``net`` itself is a convolution, its replacement.

    Raises:
        ValueError: for a convolution that cannot be skipped, a network without any, an override
            that names no convolution, an unknown reference, or a gate that does not fit.
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
    template = build_gate(gate)
    special = {pattern: build_gate(value) for pattern, value in (overrides or {}).items()}
    keep = filter_fn or (lambda module, name: True)

    chosen: dict[nn.Module, Gate | None] = {}
    names: dict[nn.Module, str] = {}
    matched: set[str] = set()
    seen: set[nn.Module] = set()
    for name, module in net.named_modules(remove_duplicate=False):
        if not _is_convolution(module):
            continue
        name = plain_name(name)
        found, layer_gate = _override(name, special)
        matched |= found
        first = module not in seen
        seen.add(module)
        if not found:
            if not first or not keep(module, name):  # another name of it has had its say
                continue
            layer_gate = template
        if layer_gate is not None and (reason := _why_not(module)):
            raise ValueError(
                f"layer {name!r} ({type(module).__name__}) is a convolution that cannot be "
                f"skipped: {reason}; exclude it with filter_fn, or with "
                f"overrides={{{name!r}: None}}"
            )
        chosen[module] = layer_gate
        names.setdefault(module, name)
    unmatched = [pattern for pattern in special if pattern not in matched]
    if unmatched:
        raise ValueError(
            f"overrides match no convolution: {unmatched}; names look like "
            f"{list(names.values())[:5]}"
        )

    if template is not None and not seen:
        raise ValueError(
            f"{type(original(net)).__name__} has no convolution to gate"
            + (": it is traced, scripted or exported, so convert the network that it was made from")
            * is_program(net)
        )

    # A module that is used in several places stays one module.
    replaced: dict[nn.Module, nn.Module] = {}
    regated: list[tuple[SkipConv2d, Gate | None]] = []
    for module, layer_gate in chosen.items():
        if isinstance(module, SkipConv2d):
            regated.append((module, bind_gate(module, layer_gate, reference)))
        elif isinstance(module, nn.Conv2d) and layer_gate is not None:
            replaced[module] = SkipConv2d.from_conv(module, layer_gate, reference)
    for module in net.modules():
        if (inner := original(module)) is not module and inner in replaced:
            raise ValueError(
                f"layer {names[inner]!r} ({type(inner).__name__}) was compiled by itself, and "
                "would be called as it is: convert the network first, and compile it then"
            )
    # Nothing can fail from here on.
    for layer, bound in regated:
        layer.gate, layer.reference = bound, reference
    if net in replaced:
        return replaced[net]
    for parent in list(net.modules()):
        # Not named_children, which leaves out a child's second name.
        for child_name, child in list(parent._modules.items()):
            if child is None:
                continue
            if child in replaced:
                setattr(parent, child_name, replaced[child])
            elif is_random(child) and not isinstance(parent, ClipConsistent):
                setattr(parent, child_name, ClipConsistent(child))
    introduce(net)
    return net


def _is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution, of a traced or scripted network too."""
    if isinstance(module, torch.jit.ScriptModule):
        kind = getattr(module, "original_name", "")
        return re.fullmatch(r"(Skip)?Conv(Transpose)?[123]d", kind) is not None
    return isinstance(module, nn.modules.conv._ConvNd)


def _why_not(module: nn.Module) -> str | None:
    """What keeps a convolution from being gated, or None."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is traced or scripted, so convert the network before"
    return why_not_skipped(module)


def _override(name: str, special: Mapping[str, Gate | None]) -> tuple[set[str], Gate | None]:
    """The patterns that match a name, and the gate of the one that wins."""
    matching = [pattern for pattern in special if fnmatchcase(name, pattern)]
    if name in special:
        return {*matching, name}, special[name]
    return set(matching), special[matching[-1]] if matching else None


def introduce(net: nn.Module) -> None:
    """Makes a network known to clips and streams; :func:`convert_` has done so.

    Layers that are not gated report their MACs, skip convolutions know their names, and the network
    tells a pass when it runs.
    """
    for module, name in module_names(net).items():
        if isinstance(module, SkipConv2d):
            module.name = name
        elif isinstance(module, COUNTED) and count_macs not in module._forward_hooks.values():
            module.register_forward_hook(count_macs, with_kwargs=True)
    # A layer by itself is known when it runs, and a program takes no hooks.
    knows = isinstance(net, SkipConv2d | torch.jit.ScriptModule)
    if not knows and tell_pass not in net._forward_hooks.values():
        net.register_forward_hook(tell_pass)
