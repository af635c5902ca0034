"""Why a network, or an operation of it, has no place in a plan or in a backend."""

from __future__ import annotations


class BackendError(ValueError):
    """A backend cannot run this network, or not here; ``'auto'`` then takes the next one."""


class CaptureError(BackendError):
    """A network that is more than a flat list of known operations; says what of it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the network cannot be captured")


class Unsupported(Exception):
    """Says what of an operation's arguments has no place in a plan."""
