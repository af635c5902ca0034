"""skippose/calibration/choice.py"""

import numpy as np
import pytest

pytest.importorskip("mmpose")

import torch

from skippose.calibration.choice import motion, representative


def test_motion_is_the_share_of_cells_that_change():
    frames = torch.full((3, 3, 16, 16), 100.0)
    assert motion(frames) == 0
    frames[1:, :, :8, :8] += 40  # 4 of 16 cells, once in two steps
    assert motion(frames) == pytest.approx(4 / 16 / 2)
    assert motion(frames.byte()) == motion(frames)
    assert motion(frames[:1]) == 0


def test_noise_is_no_motion():
    noise = torch.from_numpy(np.random.default_rng(0).normal(100, 3, (5, 3, 32, 32)))
    assert motion(noise) < 0.01


def test_chosen_clips_cost_what_all_of_them_do():
    rng = np.random.default_rng(0)
    motions = rng.lognormal(0, 1, 200)
    costs = motions * rng.lognormal(0, 0.1, 200)
    found = representative(motions.tolist(), 24)
    assert found == sorted(set(found)) and len(found) == 24
    drawn = [costs[rng.permutation(200)[:24]].mean() for _ in range(200)]
    assert abs(costs[found].mean() / costs.mean() - 1) < np.std(drawn) / costs.mean() / 2


def test_more_clips_than_there_are_gives_all():
    assert representative([0.3, 0.1, 0.1], 5) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1"):
        representative([0.1], 0)
