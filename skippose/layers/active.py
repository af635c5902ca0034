"""Which forward pass is gated right now.

A layer knows its convolution and its gate; how many frames its input holds, and where state is
kept, belongs to the forward pass around it. :mod:`skippose.context` and :mod:`skippose.backends`
put theirs here for as long as it lasts. A context variable, so that threads do not see each
other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

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


def inside_backward() -> bool:
    """Whether a backward pass is calling: then this forward is a checkpoint's recomputation."""
    return torch._C._current_graph_task_id() != -1
