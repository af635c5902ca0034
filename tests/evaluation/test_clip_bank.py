"""Which configs the tools that run clips take."""

from pathlib import Path

import pytest

pytest.importorskip("mmpose")

from mmengine.config import Config

from skippose.evaluation.clip_bank import check_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_gated_and_low_rank_networks_on_clips_are_taken() -> None:
    for name in ("demo/skip_hrnet_small.py", "small/skip_hrnet_small_low-rank.py"):
        check_config(Config.fromfile(CONFIGS / name), name)


def test_a_config_of_mmpose_is_refused_and_says_what_is_there() -> None:
    data = dict(dataset=dict(type="JhmdbDataset"))
    config = dict(model=dict(type="TopdownPoseEstimator"), test_dataloader=data)
    with pytest.raises(
        ValueError,
        match=r"a.py: found TopdownPoseEstimator and test data in JhmdbDataset; expected a gated "
        r"network \(SkipTopdownPoseEstimator\) on a ClipDataset",
    ):
        check_config(config, "a.py")
    config["model"]["type"] = "SkipTopdownPoseEstimator"
    with pytest.raises(ValueError, match="test data in JhmdbDataset"):
        check_config(config, "a.py")
    with pytest.raises(ValueError, match="found None and test data in None"):
        check_config({}, "a.py")
