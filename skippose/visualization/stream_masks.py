"""Where a stream computed in its last frame, as pictures need it."""

from __future__ import annotations

from skippose.frames_pass import CallRecord
from skippose.stream import Stream


def stream_records(stream: Stream) -> dict[str, CallRecord]:
    """The gated layers of a stream's last frame, by name; ``gate`` is (S, 1, 1, Hb, Wb) bool.

    Raises:
        ValueError: before the first frame, or of a backend that does not tell its masks.
    """
    masks = stream.masks()
    return {
        layer.name: CallRecord(
            macs=layer.macs,
            gate=masks[layer.name].opened[:, None, None],
            block=masks[layer.name].block,
            out_size=masks[layer.name].size,
        )
        for layer in stream.report().layers
        if layer.name in masks
    }
