"""Gated forward passes over clips: ``with skippose.clips(8): net(frames)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from skippose.frames_pass import FramesPass, NetState
from skippose.layers import active_pass, gated_pass
from skippose.ops.schedule import Schedule


@contextmanager
def clips(
    T: int,
    lengths: Sequence[int] | None = None,
    cut: float | None = None,
    refresh_every: int | None = None,
    *,
    state: NetState | None = None,
    keep_state: bool = False,
    keep_masks: bool = False,
) -> Iterator[FramesPass]:
    """Inside, a skip network takes clips: (B·T, C, H, W), the T frames of a clip in a row.

    One forward pass of the network; a second one inside the same ``with`` counts as further calls
    of its layers within each frame. A converted network that is called has all its gated layers
    run; those that did not are named at the end, in a warning, once.

    Args:
        T: frames per clip.
        lengths: real frames of each clip; the rest is padding and enters no cost and no loss.
        cut: where the first gated layer's density exceeds this, the clip begins anew.
        refresh_every: frames 1, 1 + k, ... are computed in full.
        state: the ``state`` of a pass before, for clips that come in chunks.
        keep_state: keep ``state`` for a pass after this one.
        keep_masks: keep the gates of every layer in ``records``.

    Yields:
        The pass: ``gate_loss()``, ``report(net)``, ``records``, ``state``.

    Raises:
        ValueError: for T < 1, lengths outside 1 to T, a bad cut or refresh; from the network's
            first layer, for a batch that T does not divide; at the end, if no gated layer ran of
            a network that has some: it was dense.
        RuntimeError: at the end, if no layer ran at all.
    """
    if not isinstance(T, int) or T < 1:
        raise ValueError(f"a clip has at least one frame, got T={T!r}")
    least = 1 if state is None else 0  # a clip may have ended in the chunk before
    if lengths is not None and any(not least <= int(n) <= T for n in lengths):
        raise ValueError(f"lengths must lie between {least} and T={T}, got {list(lengths)}")
    run = FramesPass(T, Schedule(refresh_every, cut), state, keep_state, keep_masks, lengths)
    with run.opened():
        yield run
    run.check_ran()  # not after an error


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """Activation checkpointing that knows about clips.

    The recomputation during the backward pass re-enters the clip, with the same calls and the same
    noise, and is counted once. Outside of clips it is ``torch.utils.checkpoint``, non-reentrant.
    """
    run = active_pass()
    if not isinstance(run, FramesPass):
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)
    calls = run.calls_so_far()

    return torch.utils.checkpoint.checkpoint(
        function,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _Replay(run, calls)),
    )


class _Replay(AbstractContextManager[None]):
    """Re-enters a pass where a part of it began; as often as the backward pass recomputes it."""

    def __init__(self, run: FramesPass, calls: dict[nn.Module, int]) -> None:
        self._run, self._calls = run, calls
        self._open: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        inner = gated_pass(self._run.replay(self._calls))
        inner.__enter__()
        self._open.append(inner)

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)
