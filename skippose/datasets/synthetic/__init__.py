"""Synthetic clips: an articulated person in a textured place, rendered with numpy and OpenCV.

`Recording.sample` draws a clip from a seed and `Recording.record` renders it.
"""

from .motion import MOTIONS
from .recording import HEIGHT, LENGTHS, WIDTH, Recording
from .skeleton import JOINTS

__all__ = ["HEIGHT", "JOINTS", "LENGTHS", "MOTIONS", "WIDTH", "Recording"]
