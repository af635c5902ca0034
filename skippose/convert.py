"""Turning a network's convolutions into skip convolutions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from skippose.gates import Gate, build_gate
from skippose.layers import ClipConsistent, SkipConv2d, bind_gate, count_macs
from skippose.layers.dense import COUNTED, is_random
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
        ValueError: for a convolution that cannot be skipped, an override that names no
            convolution, an unknown reference, or a gate that does not fit.
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
        if not isinstance(module, nn.modules.conv._ConvNd):
            continue
        found, layer_gate = _override(name, special)
        matched |= found
        first = module not in seen
        seen.add(module)
        if not found:
            if not first or not keep(module, name):  # another name of it has had its say
                continue
            layer_gate = template
        if layer_gate is not None and not _can_skip(module):
            raise ValueError(
                f"layer {name!r} ({type(module).__name__}) is a convolution that cannot be "
                "skipped; exclude it with filter_fn, or with overrides={" + repr(name) + ": None}"
            )
        chosen[module] = layer_gate
        names.setdefault(module, name)
    unmatched = [pattern for pattern in special if pattern not in matched]
    if unmatched:
        raise ValueError(
            f"overrides match no convolution: {unmatched}; names look like "
            f"{list(names.values())[:5]}"
        )

    # A module that is used in several places stays one module.
    replaced: dict[nn.Module, nn.Module] = {}
    regated: list[tuple[SkipConv2d, Gate | None]] = []
    for module, layer_gate in chosen.items():
        if isinstance(module, SkipConv2d):
            regated.append((module, bind_gate(module, layer_gate, reference)))
        elif isinstance(module, nn.Conv2d) and layer_gate is not None:
            replaced[module] = SkipConv2d.from_conv(module, layer_gate, reference)
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
    count_layers(net)
    name_layers(net)
    return net


def _can_skip(module: nn.Module) -> bool:
    """A 2-D convolution whose forward pass is that of ``nn.Conv2d``, with its weights at hand."""
    return isinstance(module, SkipConv2d) or (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and not hasattr(module, "parametrizations")
        and not isinstance(module.weight, nn.parameter.UninitializedParameter)
    )


def _override(name: str, special: Mapping[str, Gate | None]) -> tuple[set[str], Gate | None]:
    """The patterns that match a name, and the gate of the one that wins."""
    matching = [pattern for pattern in special if fnmatchcase(name, pattern)]
    if name in special:
        return {*matching, name}, special[name]
    return set(matching), special[matching[-1]] if matching else None


def count_layers(net: nn.Module) -> None:
    """Makes the layers that are not gated report their MACs to clips and streams."""
    for module in net.modules():
        dense = isinstance(module, COUNTED) and not isinstance(module, SkipConv2d)
        if dense and count_macs not in module._forward_hooks.values():
            module.register_forward_hook(count_macs, with_kwargs=True)


def name_layers(net: nn.Module) -> None:
    """Tells every skip convolution its name in ``net``, for error messages."""
    for name, module in net.named_modules():
        if isinstance(module, SkipConv2d):
            module.name = name
