"""What an operation of torch tells about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


@dataclass(frozen=True)
class Signature:
    """Of one overload of an operation; asking torch takes long, so it is asked once.

    Attributes:
        name: without its namespace and overload, as ``add_``.
        defaults: of all arguments, by name, in order.
        writes: names of the arguments that are written to, also outside of training.
        modes: names of the arguments that say whether it runs in training mode.
        in_place: whether it writes into its first argument and returns that.
        draws: whether its result is random.
        gives_tensor: whether a tensor is among its results.
        fresh: whether its result has memory of its own though it is called an alias.
    """

    name: str
    defaults: dict[str, Any]
    writes: tuple[str, ...]
    modes: tuple[str, ...]
    in_place: bool
    draws: bool
    gives_tensor: bool
    fresh: bool

    def named(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name, defaults included."""
        return {**self.defaults, **dict(zip(self.defaults, args, strict=False)), **kwargs}


@cache
def signature_of(func: Any) -> Signature:
    """The signature of ``torch.ops.aten.add.Tensor`` and the like."""
    arguments, name = func._schema.arguments, func._schema.name.partition("::")[2]
    modes = tuple(a.name for a in arguments if a.name in ("training", "train"))
    written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    random = torch.Tag.nondeterministic_seeded in func.tags
    return Signature(
        name=name,
        defaults={a.name: a.default_value for a in arguments},
        writes=() if modes else tuple(written),  # statistics, which stay as they are otherwise
        modes=modes,
        in_place=name.endswith("_") and not name.startswith("_"),
        draws=random or any("Generator" in str(a.type) for a in arguments),
        gives_tensor=any("Tensor" in str(r.type) for r in func._schema.returns),
        fresh=name == "lift_fresh",  # torch.tensor(...): what it is an alias of nobody else has
    )
