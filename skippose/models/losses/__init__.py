"""Losses of gated training."""

from skippose.models.losses.gate_loss import GateLoss

__all__ = ["GateLoss"]
