"""The price of computing: how much of the MACs the gates let through."""

from __future__ import annotations

import math

import torch
from mmengine.dist import all_reduce, get_world_size
from mmpose.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class GateLoss(nn.Module):
    """``weight · L``, or ``weight · |L - target|``, L the expected share of the MACs.

    ``L = 1/(T-1) Σ_t Σ_l m_l E[g] / Σ_l m_l`` (Skip-Convolutions, equation 8, with MACs for the
    cost of a layer); :meth:`skippose.frames_pass.FramesPass.gate_loss` computes it.

    Args:
        weight: β, at least 0.
        target: a share of the MACs to aim at, between 0 and 1; None makes less always better.

    Raises:
        ValueError: for a negative weight, or a target outside 0 to 1.
    """

    def __init__(self, weight: float, target: float | None = None) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight must be a number of at least 0, got {weight!r}")
        if target is not None and not 0 <= target <= 1:
            raise ValueError(f"target must be a share between 0 and 1, got {target!r}")
        self.weight = float(weight)
        self.target = target

    def forward(self, share: Tensor) -> Tensor:
        """The scalar share of this process to the scalar loss."""
        if self.target is None:
            return self.weight * share
        if get_world_size() > 1:
            # The distance is that of the mean over processes; each keeps its own gradient.
            mean = share.detach().clone()
            all_reduce(mean, op="mean")
            share = share + (mean - share.detach())
        return self.weight * torch.abs(share - self.target)
