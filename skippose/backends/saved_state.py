"""What the saved states of all backends have in common: whose they are, and all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from skippose.layers import SkipConv2d, gated_layers, module_names


def kind_of(layer: SkipConv2d) -> dict[str, object]:
    """What decides which fields a gated layer's state has, their shapes and meaning."""
    assert layer.gate is not None
    geometry = ("in_channels", "kernel_size", "stride", "padding", "dilation")
    return (
        {"reference": layer.reference}
        | {k: getattr(layer, k) for k in geometry}
        | layer.gate.state_kind()
    )


def check_layers(net: nn.Module, state: dict[str, Any], calls: set[str] | None = None) -> None:
    """Whether saved layers are those of this network.

    Args:
        net: the network.
        calls: ``name#call`` of all gated layers that the network calls, where that is known.
        state: with ``gates`` (:func:`kind_of` by layer name) and ``layers`` (by ``name#call``, each
            with the tensor ``z``, (S, O, ...)).

    Raises:
        ValueError: naming the first layer that differs.
    """
    names, gated = set(module_names(net).values()), gated_layers(net)
    for key, tensors in state["layers"].items():
        name = key.rpartition("#")[0]
        if name not in names:
            raise ValueError(f"the state has a layer {name!r} that the network lacks")
        if name not in gated:
            raise ValueError(f"the state has gated layer {key!r}; the network's has no gate")
        found, expected = tensors["z"].shape[1], gated[name].out_channels
        if found != expected:
            raise ValueError(
                f"the state of layer {key!r} has {found} channels, the network's layer {expected}"
            )
    for name, kind in state["gates"].items():
        if name not in gated:
            raise ValueError(f"the state has gated layer {name!r}; the network has no such one")
        mine = kind_of(gated[name])
        if kind != mine:
            fields = [k for k in mine | kind if mine.get(k) != kind.get(k)]
            theirs, ours = ({k: of.get(k) for k in fields} for of in (kind, mine))
            raise ValueError(f"the state of layer {name!r} is of {theirs}, the layer has {ours}")
    # Not those in ``layers``: an auxiliary head may have a gate and not be called.
    missing = gated.keys() - state["gates"].keys()
    if missing:
        raise ValueError(f"the state lacks gated layers of the network: {sorted(missing)[:5]}")
    if calls is not None and calls != state["layers"].keys():
        differ = sorted(calls ^ state["layers"].keys())
        raise ValueError(f"either the state or the network, not both, has the calls {differ[:5]}")


def copy_saved(pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> None:
    """Writes what was saved into a backend's own memory: all of it, or nothing.

    Args:
        pairs: saved tensors and where they belong; None for what one side lacks.

    Raises:
        ValueError: if something is lacking, or of another shape or dtype.
    """
    whole = []
    for saved, mine in pairs:
        if saved is None or mine is None or (saved.shape, saved.dtype) != (mine.shape, mine.dtype):
            raise ValueError(
                "the state is of a network with other layers, or made by another version"
            )
        whole.append((saved, mine))
    for saved, mine in whole:
        mine.copy_(saved)


def kinds_of(net: nn.Module) -> dict[str, dict[str, object]]:
    """:func:`kind_of` of all gated layers, by name: a state's ``gates``."""
    return {name: kind_of(layer) for name, layer in gated_layers(net).items()}


def leaves(tree: Mapping[Any, Any], path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Tensor]:
    """The tensors of a dictionary of dictionaries, by the keys that lead to them."""
    found: dict[tuple[Any, ...], Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, (*path, key))
        else:
            found[(*path, key)] = value
    return found


def copies(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same dictionaries with copies of the tensors."""
    return {k: copies(v) if isinstance(v, Mapping) else v.clone() for k, v in tree.items()}
