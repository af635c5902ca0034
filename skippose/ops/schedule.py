"""Which frames are computed in full: first ones, refreshes, cuts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Rules for dense frames.

    Attributes:
        refresh_every: frames 1, 1 + k, 1 + 2k ... since a slot's beginning or last cut are dense.
        cut: where the first gated layer's density exceeds this, the slot begins anew.

    Raises:
        ValueError: for a refresh below 1 or a cut outside 0 to 1.
    """

    refresh_every: int | None = None
    cut: float | None = None

    def __post_init__(self) -> None:
        k = self.refresh_every
        if k is not None and (not isinstance(k, int) or k < 1):
            raise ValueError(f"refresh_every must be a number of frames, at least 1, got {k!r}")
        if self.cut is not None and not 0 <= self.cut <= 1:
            raise ValueError(f"cut must be a density between 0 and 1, got {self.cut!r}")

    def due(self, age: Tensor) -> Tensor:
        """Whether a slot's next frame is dense, (S,) bool from (S,) frames since it began."""
        if self.refresh_every is None:
            return age == 0
        return age % self.refresh_every == 0

    def plan(self, age: Tensor, frames: int) -> Tensor:
        """(S, T) bool: the dense ones among the next frames, cuts apart."""
        later = torch.arange(frames, dtype=torch.long, device=age.device)
        return self.due(age[:, None] + later)
