"""Which clips to calibrate on: few that cost on average what all of them do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skippose.evaluation.clip_bank import spread

CELL = 4
"""Side of the cells, in pixels, whose mean is compared from frame to frame."""
NOTICEABLE = 5.0
"""Grey levels by which a cell's mean has changed."""


@torch.no_grad()
def motion(frames: Tensor) -> float:
    """How much of a clip changes from frame to frame: the share of cells that do noticeably.

    With the small HRNet on 131 clips of JHMDB its correlation with a gated network's MACs is 0.96,
    where one clip costs up to 60 times another. It needs no network.

    Args:
        frames: (T, 3, H, W) in grey levels.

    Returns:
        Between 0 and 1; 0 for a single frame.
    """
    if len(frames) < 2:
        return 0.0
    cells = torch.nn.functional.avg_pool2d(frames.float(), CELL)
    change = (cells[1:] - cells[:-1]).abs().mean(1)
    return float((change > NOTICEABLE).float().mean())


def representative(motions: Sequence[float], count: int) -> list[int]:
    """``count`` clips at even distances along the order of their motion, in the clips' order.

    A mean over them is nearer to the mean over all clips than that of as many clips in the order of
    their names, or drawn at random: every stratum of motion has its share.
    """
    order = sorted(range(len(motions)), key=lambda n: (motions[n], n))
    return sorted(order[n] for n in spread(len(motions), count))
