"""What turns collated data into a network's input."""

from .clip_preprocessor import ClipPoseDataPreprocessor

__all__ = ["ClipPoseDataPreprocessor"]
