"""A step recorded once as a CUDA graph and launched as a whole with every frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


class RecordedStep:
    """``(frame, state) -> (output, state)`` on a GPU, its state kept in place.

    A gated network is thousands of small operations, and launching each of them takes the host
    longer than the device needs to run it; a recording is launched at once.

    Args:
        function: the step; it writes to neither argument and never waits for the device.
        frame: one like those to come.
        state: a pytree of tensors; every frame writes the state after it into them.

    Raises:
        RuntimeError: if ``function`` waits for the device.
    """

    def __init__(
        self, function: Callable[[Tensor, Any], tuple[Any, Any]], frame: Tensor, state: Any
    ) -> None:
        self._frame = frame.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(frame.device):
            self._warm_up(function, state)
            # The error mode: other threads may use the device meanwhile, as those that load data.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output, after = function(self._frame, state)
                torch._foreach_copy_(pytree.tree_flatten(state)[0], pytree.tree_flatten(after)[0])

    def _warm_up(self, function: Callable[[Tensor, Any], tuple[Any, Any]], state: Any) -> None:
        """Libraries choose their algorithms, and what waits for the device is found.

        Found here it is an error like any other; a recording that fails can break the process.
        """
        side, usual = torch.cuda.Stream(), torch.cuda.get_sync_debug_mode()
        side.wait_stream(torch.cuda.current_stream())
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(side):
                function(self._frame, state)
        finally:
            torch.cuda.set_sync_debug_mode(usual)
        torch.cuda.current_stream().wait_stream(side)

    def __call__(self, frame: Tensor) -> Any:
        """One frame to the output, which the next one overwrites; the state moves on."""
        self._frame.copy_(frame)
        self._graph.replay()
        return self._output
