"""Which forward pass is gated right now.

A layer knows its convolution and its gate; how many frames its input holds, and where state is
kept, belongs to the forward pass around it. :mod:`skippose.context` and :mod:`skippose.backends`
put theirs here for as long as it lasts. A context variable, so that threads do not see each
other's; a pass may ask which layers ran in other threads meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from skippose.layers.skip_conv import SkipConv2d


class GatedPass(Protocol):
    """A forward pass over frames of known order."""

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        """The gated convolution of one layer's input."""
        ...

    def count_dense(self, layer: nn.Module, x: Tensor, macs: int) -> None:
        """Notes a layer that is not gated: its input, and the MACs of this call in all."""
        ...

    def repeat_draw(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One draw of a random layer for all frames of a clip."""
        ...


_active: ContextVar[GatedPass | None] = ContextVar("skippose_gated_pass", default=None)


def active_pass() -> GatedPass | None:
    """The gated pass around this call, or None: then the network is the dense one."""
    return _active.get()


@contextmanager
def gated_pass(run: GatedPass | None) -> Iterator[None]:
    """Makes ``run`` the gated pass of this thread; None makes the network dense inside."""
    token = _active.set(run)
    try:
        yield
    finally:
        _active.reset(token)


@dataclass(eq=False)
class _Watch:
    """What one pass wants to know: names, as a set that keeps the order."""

    names: dict[str, None]
    thread: int = field(default_factory=get_ident)


watches: list[_Watch] = []
"""Of the passes that want to know what runs in other threads; a layer looks here outside of one."""


@contextmanager
def watching_threads(names: dict[str, None]) -> Iterator[None]:
    """Fills ``names`` with those of gated layers that run in other threads, outside of a pass."""
    watch = _Watch(names)
    watches.append(watch)
    try:
        yield
    finally:
        watches.remove(watch)


def note_outside(layer: SkipConv2d) -> None:
    """Tells those who watch that a layer ran densely."""
    for watch in list(watches):
        if watch.thread != get_ident():  # in its own thread it is meant so: gated_pass(None)
            watch.names[layer.name or str(layer)] = None


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _call_before_compiling(function: Callable[..., Any], *args: Any) -> Any:
    global outside_compiler
    # Whoever compiles has imported it; to do so here would take longer than all of skippose.
    if "torch._dynamo" in sys.modules:
        outside_compiler = torch.compiler.disable(_call)
        return outside_compiler(function, *args)
    return function(*args)


outside_compiler: Callable[..., Any] = _call_before_compiling
"""Calls a function that ``torch.compile`` is to leave as it is, for a pass has effects. It is
replaced once somebody compiles, so use it as an attribute of this module."""


def inside_backward() -> bool:
    """Whether a backward pass is calling: then this forward is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1
