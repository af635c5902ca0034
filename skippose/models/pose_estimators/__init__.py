"""Pose estimators that take clips."""

from skippose.models.pose_estimators.low_rank import LowRankTopdownPoseEstimator
from skippose.models.pose_estimators.skip_topdown import SkipTopdownPoseEstimator

__all__ = ["LowRankTopdownPoseEstimator", "SkipTopdownPoseEstimator"]
