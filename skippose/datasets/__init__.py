"""Data sets of clips."""

from .clip_dataset import ClipDataset, ClipSamples
from .clip_pipeline import ClipPipeline, FrameError
from .crop_windows import build_crop_window, clip_windows

__all__ = [
    "ClipDataset",
    "ClipPipeline",
    "ClipSamples",
    "FrameError",
    "build_crop_window",
    "clip_windows",
]
