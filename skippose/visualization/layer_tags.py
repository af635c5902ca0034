"""Names of layers under which hundreds of them can be found in TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

_SHORTER = (
    (re.compile(r"(^|/)branches/(\d+)"), r"\1branch\2"),
    (re.compile(r"(^|/)fuse_layers/(\d+)/(\d+)"), r"\1fuse\2from\3"),
)


def layer_tag(name: str) -> str:
    """A module's name as a path: ``backbone.stage3.0.branches.1.0.conv2`` is
    ``stage3/0/branch1/0/conv2``.

    What stands before the first slash is the part of the network: a stage of the backbone, ``stem``
    for the backbone's own layers, ``head``, ``neck``.
    """
    parts = name.split(".")
    if parts[0] == "backbone" and len(parts) > 1:
        parts = parts[1:] if len(parts) > 2 else ["stem", parts[1]]
    tag = "/".join(parts)
    for pattern, shorter in _SHORTER:
        tag = pattern.sub(shorter, tag)
    return tag


def part_of(name: str) -> str:
    """The part of the network that a layer belongs to: what its tag begins with."""
    return layer_tag(name).partition("/")[0]


def scalar_tag(name: str, what: str) -> str:
    """``gates.<part>/<rest>/<what>``: TensorBoard makes a group of what precedes the first slash.

    Thus every part of the network is a group of its own, to be unfolded or left folded.
    """
    return f"gates.{layer_tag(name)}/{what}"


def choose_layers(names: Iterable[str], patterns: Sequence[str], limit: int) -> list[str]:
    """The first ``limit`` of the layers that match any glob pattern, in the network's order.

    A pattern may be of a module's name or of its tag.
    """
    chosen = [
        name
        for name in names
        if any(fnmatchcase(name, p) or fnmatchcase(layer_tag(name), p) for p in patterns)
    ]
    return chosen[:limit]
