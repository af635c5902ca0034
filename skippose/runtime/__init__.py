"""Streams: gated networks on video, one frame at a time."""

from skippose.runtime.stream import Stream

__all__ = ["Stream"]
