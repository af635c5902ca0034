"""Streams: gated networks on video, one frame at a time."""

from skippose.runtime.export import ExportedStep, export_step
from skippose.runtime.stream import Stream

__all__ = ["ExportedStep", "Stream", "export_step"]
