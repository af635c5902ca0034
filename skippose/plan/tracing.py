"""What traces of several operators need."""

from __future__ import annotations

from collections.abc import Sequence

from skippose.plan.errors import Unsupported


def require(condition: bool, what: str) -> None:
    """Raises :class:`Unsupported` with these words unless the condition holds."""
    if not condition:
        raise Unsupported(what)


def pair(values: Sequence[int] | int) -> tuple[int, int]:
    """(rows, columns) of an argument that may be one number."""
    values = [values] if isinstance(values, int) else list(values)
    return (values[0], values[-1])
