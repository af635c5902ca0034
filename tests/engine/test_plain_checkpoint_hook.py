"""Checkpoints of a training load as weights alone, and remove no files of others."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmpose")

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from skippose.engine import ExactResumeHook, PlainCheckpointHook
from skippose.evaluation.sparsity_metric import BaseMetric

ROOT = Path(__file__).parents[2]
NUMBERS = itertools.count()


class Net(BaseModel):
    """Draws its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs: Tensor, mode: str = "tensor", **_: Any) -> Any:
        out = self.layer(inputs) + torch.rand(2)
        return dict(loss=out.square().mean()) if mode == "loss" else [dict(out=out.detach())]


class Numbers(Dataset):
    """With a description of arrays, as mmpose's data sets have."""

    def __init__(self) -> None:
        import numpy as np

        self.metainfo = dict(sigmas=np.ones(2, np.float32), colors=np.ones((2, 3), np.uint8))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=torch.full((2,), float(index)))


class Rising(BaseMetric):
    """Every evaluation is better than the one before."""

    count = 0.0

    def process(self, *_: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, Any]:
        import numpy as np

        self.count += 1
        return dict(score=np.float64(self.count))  # as mmpose's metrics give it


class KillAfterTheFirst(Hook):
    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 1:
            raise KeyboardInterrupt


def runner(folder: Path, epochs: int = 2, hook: bool = True, **options: Any) -> Runner:
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=Numbers(),
        sampler=dict(type="DefaultSampler"),
        collate_fn=dict(type="default_collate"),
    )
    checkpoint = CheckpointHook(interval=1, max_keep_ckpts=1, save_best="score", rule="greater")
    torch.manual_seed(0)
    hooks = [ExactResumeHook(), PlainCheckpointHook()] if hook else [ExactResumeHook()]
    settings: dict[str, Any] = dict(
        model=Net(),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        val_cfg=dict(),
        val_evaluator=[Rising()],
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=[dict(type="MultiStepLR", milestones=[1, 3])],
        default_hooks=dict(checkpoint=checkpoint, logger=dict(type="LoggerHook", interval=1)),
        custom_hooks=hooks,
        randomness=dict(seed=3),
        experiment_name=f"plain-{next(NUMBERS)}",  # mmengine keeps what it knows by this name
        default_scope="mmpose",
        log_level="INFO",
    )
    return Runner(**{**settings, **options})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(MMLogger, "warning", lambda _, text, *__, **___: said.append(text))
    return said


def test_they_load_with_weights_only_and_no_list_of_what_is_allowed(tmp_path):
    runner(tmp_path).train()
    paths = sorted(tmp_path.glob("*.pth"))
    assert [path.name for path in paths] == ["best_score_epoch_2.pth", "epoch_2.pth"]
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.1 of its own
            content = torch.load(path, weights_only=True)
        assert {"state_dict", "message_hub", "meta", "random_state"} <= content.keys()


def test_without_the_hook_they_do_not(tmp_path):
    runner(tmp_path, hook=False).train()
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "epoch_2.pth", weights_only=True)


@pytest.mark.parametrize("saved_with", [True, False], ids=["plain", "mmengine's own"])
def test_resuming_is_as_before(saved_with, tmp_path, log):
    """From plain ones, and from older ones that are not."""
    runner(tmp_path / "whole", 3).train()
    killed = runner(tmp_path / "parts", 3, hook=saved_with)
    killed.register_hook(KillAfterTheFirst())
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    log.clear()
    resumed = runner(tmp_path / "parts", 3, resume=True)
    resumed.train()
    whole, parts = (
        torch.load(tmp_path / name / "epoch_3.pth", weights_only=True)
        for name in ("whole", "parts")
    )
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][key]), key
    history = resumed.message_hub.get_scalar("train/loss")
    assert len(history.data[0]) == 6 and history.mean() > 0
    assert resumed.message_hub.get_info("best_score") == 2.0  # counted anew; 1 was known
    said = [text for text in log if "metainfo" in text or "HistoryBuffer" in text]
    assert not said


def evil(path: Path, **info: Any) -> Path:
    """The checkpoint of a training, with more in it about files."""
    content = torch.load(path, weights_only=True)
    content["message_hub"]["runtime_info"].update(info)
    torch.save(content, path.with_name("evil.pth"))
    return path.with_name("evil.pth")


@pytest.mark.parametrize(
    "info",
    [
        lambda victim: {"best_ckpt": str(victim), "best_score": 0.0},
        lambda victim: {"best_ckpt": victim.name, "best_score": 0.0},
        lambda victim: {"best_ckpt": 3, "best_score": 0.0},
        lambda victim: {"keep_ckpt_ids": ["/../../precious", 1]},
        lambda victim: {"keep_ckpt_ids": "precious"},
    ],
    ids=["another's file", "a file here", "no path", "steps with a path", "no steps"],
)
def test_a_checkpoint_names_no_files_to_remove(info, tmp_path, monkeypatch, log):
    victim = tmp_path / "best_precious.pth"
    for path in (victim, tmp_path / "precious.pth"):
        path.write_text("mine")
    (tmp_path / "mine" / "epoch_").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    runner(tmp_path / "theirs", 1).train()
    path = evil(tmp_path / "theirs" / "epoch_1.pth", **info(victim))
    runner(tmp_path / "mine", 3, resume=True, load_from=str(path)).train()
    assert victim.read_text() == (tmp_path / "precious.pth").read_text() == "mine"
    assert (tmp_path / "mine" / "epoch_3.pth").is_file()


def test_the_files_of_another_run_stay(tmp_path, log):
    """Resumed from it in a folder of its own, which mmengine would go on to clear there."""
    runner(tmp_path / "one", 1).train()
    before = sorted(path.name for path in (tmp_path / "one").glob("*.pth"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "epoch_1.pth").write_text("of a third run")
    path = tmp_path / "one" / "epoch_1.pth"
    runner(tmp_path / "two", 3, resume=True, load_from=str(path)).train()
    assert sorted(path.name for path in (tmp_path / "one").glob("*.pth")) == before
    assert (tmp_path / "two" / "epoch_1.pth").read_text() == "of a third run"


@pytest.mark.parametrize("moved", [False, True], ids=["", "out_dir"])
def test_a_run_clears_its_own_files_as_before(moved, tmp_path, log):
    where = dict(out_dir=str(tmp_path / "kept")) if moved else {}
    checkpoint = dict(
        checkpoint=CheckpointHook(
            interval=1, max_keep_ckpts=1, save_best="score", rule="greater", **where
        )
    )
    runner(tmp_path / "run", 1, default_hooks=checkpoint).train()
    found = tmp_path / "kept" / "run" if moved else tmp_path / "run"
    again = CheckpointHook(interval=1, max_keep_ckpts=1, save_best="score", rule="greater", **where)
    runner(
        tmp_path / "run", 3, resume=True, load_from=str(found / "epoch_1.pth"),
        default_hooks=dict(checkpoint=again), val_evaluator=[Rising(prefix=None)],
    ).train()  # fmt: skip
    names = sorted(path.name for path in found.glob("*.pth"))
    assert names == ["best_score_epoch_3.pth", "epoch_3.pth"]


def test_every_shipped_training_has_the_hook():
    for path in sorted((ROOT / "configs").rglob("*.py")):
        if "_base_" in path.parts:
            continue
        config = Config.fromfile(path)
        if config.get("train_cfg"):
            kinds = [hook["type"] for hook in config.get("custom_hooks", [])]
            assert kinds.count("PlainCheckpointHook") == 1, path
