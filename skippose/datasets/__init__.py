"""Data sets of clips."""

from .clip_dataset import ClipDataset, ClipSamples
from .clip_pipeline import ClipPipeline, FrameError
from .clip_transforms import ClipCameraJitter, ClipExposureDrift
from .crop_windows import build_crop_window, clip_windows

__all__ = [
    "ClipCameraJitter",
    "ClipDataset",
    "ClipExposureDrift",
    "ClipPipeline",
    "ClipSamples",
    "FrameError",
    "build_crop_window",
    "clip_windows",
]
