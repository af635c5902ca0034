"""What skippose registers with mmpose's models."""

from skippose.models.backbones import SkipHRNet
from skippose.models.data_preprocessors import ClipPoseDataPreprocessor
from skippose.models.losses import GateLoss
from skippose.models.pose_estimators import (
    LowRankTopdownPoseEstimator,
    SkipTopdownPoseEstimator,
)

__all__ = [
    "ClipPoseDataPreprocessor",
    "GateLoss",
    "LowRankTopdownPoseEstimator",
    "SkipHRNet",
    "SkipTopdownPoseEstimator",
]
