"""Pose networks on videos: files and cameras in, poses and pictures out."""

from skippose.video.boxes import BoxError, Boxes, Detected, FirstBox, Tracks, WholeFrame
from skippose.video.files import VideoError, VideoSink, VideoSource
from skippose.video.pose import PersonPose, PoseFrame, Summary, VideoPose

__all__ = [
    "BoxError",
    "Boxes",
    "Detected",
    "FirstBox",
    "PersonPose",
    "PoseFrame",
    "Summary",
    "Tracks",
    "VideoError",
    "VideoPose",
    "VideoSink",
    "VideoSource",
    "WholeFrame",
]
