"""Where a stream computed in its last frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skippose.backends.eager.backend import EagerBackend
from skippose.backends.torch_blocks.backend import BlocksBackend
from skippose.frames_pass import CallRecord
from skippose.report import Report
from skippose.stream import Stream
from skippose.visualization.gate_trace import PassWatch, gated_records

BACKENDS_WITH_MASKS = ("torch", "eager")


class MaskedStream:
    """A stream that notes which blocks of which layer its last frame opened.

    To be called, reset and asked for its report as the stream itself.

    Args:
        net: the network.
        backend: one of ``BACKENDS_WITH_MASKS``.
        cut: see :class:`skippose.Stream`.
        refresh_every: likewise.

    Raises:
        ValueError: for another backend, and whatever a stream objects to.
    """

    def __init__(
        self,
        net: nn.Module,
        backend: str = "torch",
        cut: float | None = None,
        refresh_every: int | None = None,
    ) -> None:
        if backend not in BACKENDS_WITH_MASKS:
            raise ValueError(
                f"masks come from the backends {BACKENDS_WITH_MASKS} alone, got {backend!r}"
            )
        self._stream = Stream(net, backend=backend, cut=cut, refresh_every=refresh_every)
        self._watch = PassWatch(net, keep_masks=True) if backend == "eager" else None

    @property
    def slots(self) -> int | None:
        """As of the stream."""
        return self._stream.slots

    def __call__(self, frame: Tensor) -> Tensor:
        """As of the stream."""
        return self._stream(frame)

    def reset(self, slots: list[int] | None = None) -> None:
        """As of the stream."""
        self._stream.reset(slots)

    def report(self) -> Report:
        """As of the stream."""
        return self._stream.report()

    @torch.inference_mode()
    def records(self) -> dict[str, CallRecord]:
        """The gated layers of the last frame, by name; ``gate`` is (S, 1, 1, Hb, Wb) bool.

        Raises:
            ValueError: before the first frame.
        """
        backend = self._stream._backend
        if isinstance(backend, EagerBackend) and self._watch is not None and self._watch.run:
            return gated_records(self._watch.run, self._stream.net)
        if not isinstance(backend, BlocksBackend):
            raise ValueError("the stream has not seen a frame yet")
        records, masks = {}, backend.masks()
        for conv in backend.convs:
            if conv.op.cost is None or conv.op.gated is None:
                continue
            cost = backend.plan.costs[conv.op.cost]
            records[cost.name] = CallRecord(
                macs=cost.macs,
                gate=masks[conv.op.key][:, None, None],
                block=(conv.block[0], conv.block[1]),
                out_size=conv.size,
            )
        return records

    def close(self) -> None:
        """Takes back what was added to the network."""
        if self._watch is not None:
            self._watch.remove()
