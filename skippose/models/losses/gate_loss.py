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
        memory: the distance from the target is that of a running mean over iterations, which keeps
            this part of itself each time. With 0 every batch aims at the target alone; where it is
            one clip of many kinds, half of which cost more than the target, the mean then ends
            above.

    Raises:
        ValueError: for a negative weight, a target outside 0 to 1, or a memory outside 0 to 1 (1
            excluded).
    """

    running: Tensor

    def __init__(self, weight: float, target: float | None = None, memory: float = 0.0) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight must be a number of at least 0, got {weight!r}")
        if target is not None and not 0 <= target <= 1:
            raise ValueError(f"target must be a share between 0 and 1, got {target!r}")
        if not 0 <= memory < 1:
            raise ValueError(f"memory must be at least 0 and below 1, got {memory!r}")
        self.weight = float(weight)
        self.target = target
        self.memory = float(memory)
        if memory:  # negative before the first batch
            self.register_buffer("running", torch.tensor(-1.0, dtype=torch.float32, device="cpu"))

    def forward(self, share: Tensor) -> Tensor:
        """The scalar share of this process to the scalar loss."""
        if self.target is None:
            return self.weight * share
        # The distance is that of the mean over processes and time; each keeps its own gradient.
        mean = share.detach().clone()
        if get_world_size() > 1:
            all_reduce(mean, op="mean")
        if self.memory:
            if self.training:
                before = torch.where(self.running < 0, mean, self.running)
                self.running.copy_(self.memory * before + (1 - self.memory) * mean)
            mean = self.running
        return self.weight * torch.abs(share + (mean - share.detach()) - self.target)
