"""tools/publish_checkpoint.py"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "publish_checkpoint.py"


def save(path: Path, weight: float, channels: int = 2) -> Path:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, channels, 1), torch.nn.BatchNorm2d(channels))
    torch.nn.init.constant_(net[0].weight, weight)
    torch.nn.init.constant_(net[1].running_mean, weight / 3)
    torch.save({"state_dict": net.state_dict(), "optimizer": {"much": 1}}, path)
    return path


def run(*arguments: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 6.0]], ids=["one", "mean"])
def test_weights_alone_in_half_precision(weights, tmp_path):
    sources = [save(tmp_path / f"{i}.pth", weight) for i, weight in enumerate(weights)]
    done = run(*sources, tmp_path / "small.pth")
    assert done.returncode == 0 and "SHA-256" in done.stdout
    small = torch.load(tmp_path / "small.pth", weights_only=False)
    mean = sum(weights) / len(weights)
    assert list(small) == ["state_dict"]
    weight, running = small["state_dict"]["0.weight"], small["state_dict"]["1.running_mean"]
    assert weight.dtype == torch.float16 and bool((weight == mean).all())
    torch.testing.assert_close(running, torch.full((2,), mean / 3))
    assert small["state_dict"]["1.num_batches_tracked"].dtype == torch.long


def test_what_cannot_be_published_is_named(tmp_path):
    one, wide = save(tmp_path / "one.pth", 1), save(tmp_path / "wide.pth", 1, channels=3)
    done = run(one, wide, tmp_path / "small.pth")
    assert done.returncode == 2 and f"{wide} is of another network than {one}" in done.stderr
    done = run(one, tmp_path / "none.pth", tmp_path / "small.pth")
    assert done.returncode == 2 and "none.pth: no such checkpoint" in done.stderr
    assert not (tmp_path / "small.pth").exists()
