"""Backbones that skip."""

from skippose.models.backbones.skip_hrnet import SkipHRNet

__all__ = ["SkipHRNet"]
