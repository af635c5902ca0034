"""Which backends there are, and which of them a stream tries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from skippose.backends.base import Backend

BACKENDS: dict[str, type[Backend]] = {}
"""By the name that streams know them by; :func:`register_backend` adds to them."""

Kind = TypeVar("Kind", bound=type[Backend])


def register_backend(kind: Kind) -> Kind:
    """Lets streams run with a backend: by its ``name``, and in ``'auto'`` by its ``preference``.

    A class decorator, for backends of this package and of others alike.

    Raises:
        ValueError: if another class has the name already, or the name is ``'auto'``.
    """
    other = BACKENDS.get(kind.name)
    if kind.name == "auto" or other not in (None, kind):
        raise ValueError(f"a backend {kind.name!r} is registered already: {other or 'any of them'}")
    BACKENDS[kind.name] = kind
    return kind


def backend_names() -> tuple[str, ...]:
    """``'auto'``, then the backends that it tries, in its order, then the others."""
    order = sorted(BACKENDS.values(), key=lambda kind: -(kind.preference or 0))
    return ("auto", *(kind.name for kind in order))


def tried() -> list[type[Backend]]:
    """The backends that ``'auto'`` tries, from the one that it prefers."""
    kinds = [BACKENDS[name] for name in backend_names()[1:]]
    return [kind for kind in kinds if kind.preference is not None]


def candidates(backend: str, options: Sequence[str]) -> list[type[Backend]]:
    """The backends to try, in order.

    Args:
        backend: a name, or ``'auto'``.
        options: names of the options that are wanted.

    Raises:
        ValueError: for an unknown backend, one that is not available here, or one without such an
            option.
    """
    if backend not in backend_names():
        raise ValueError(f"backend must be one of {backend_names()}, got {backend!r}")
    wanted = ", ".join(options)
    if backend == "auto":
        found = [k for k in tried() if k.unavailable() is None and set(options) <= k.options]
        if not found:
            raise ValueError(f"no backend that is available here has {wanted}")
        return found
    kind = BACKENDS[backend]
    reason = kind.unavailable()
    if reason is not None:
        raise ValueError(f"backend {backend!r} is not available: {reason}")
    if not set(options) <= kind.options:
        raise ValueError(f"backend {backend!r} has no {wanted}")
    return [kind]


def unavailable() -> list[str]:
    """What ``'auto'`` would prefer but cannot run here, and why."""
    reasons = {kind.name: kind.unavailable() for kind in tried()}
    return [f"not {name!r}: {reason}" for name, reason in reasons.items() if reason is not None]
