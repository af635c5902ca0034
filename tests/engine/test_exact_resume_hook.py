"""Killed and resumed gives what an uninterrupted run gives, bit for bit."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import BatchSampler

import skippose
from skippose.engine import ExactResumeHook, GateScheduleHook

ROOT = Path(__file__).parents[2]
JOINTS = 15
CODEC = dict(type="MSRAHeatmap", input_size=(32, 32), heatmap_size=(8, 8), sigma=1)


def write_clips(root: Path, subset: str, lengths: tuple[int, ...], size: int = 64) -> None:
    """Clips of a textured square that moves over a still background, annotated as JHMDB is."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, length in enumerate(lengths):
        folder = Path("Rename_Images") / subset / f"clip{number}"
        (root / folder).mkdir(parents=True)
        background = rng.integers(0, 255, (size, size, 3), np.uint8)
        square = rng.integers(0, 255, (size // 2, size // 2, 3), np.uint8)
        joints = rng.uniform(2, size // 2 - 2, (JOINTS, 2))
        for t in range(length):
            x, y = size // 8 + t, size // 8 + 2 * t
            frame = background.copy()
            frame[y : y + size // 2, x : x + size // 2] = square
            name = (folder / f"{t + 1:05d}.png").as_posix()
            cv2.imwrite(str(root / name), frame)
            image = 1000 * (number + 1) + t
            images.append(dict(id=image, file_name=name, width=size, height=size, is_labeled=True))
            keypoints = np.hstack([joints + [x + 1, y + 1], np.full((JOINTS, 1), 2)])
            annotations.append(
                dict(
                    id=image,
                    image_id=image,
                    track_id=0,
                    category_id=1,
                    keypoints=keypoints.ravel().tolist(),
                    bbox=[x + 1, y + 1, size // 2, size // 2],
                    num_keypoints=JOINTS,
                    area=size**2 // 4,
                    iscrowd=0,
                )
            )
    path = root / "annotations" / f"Sub1_{subset}.json"
    path.parent.mkdir(exist_ok=True)
    names = [str(n) for n in range(JOINTS)]
    categories = [dict(id=1, name="person", keypoints=names, skeleton=[])]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jhmdb")
    write_clips(root, "train", (4, 6, 5, 4, 6))
    write_clips(root, "test", (3,))
    return root


@pytest.fixture
def scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmpose"):
        yield


class Noisy(BaseModel):
    """A network that draws from every generator when it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, inputs: list[Tensor], data_samples: Any, mode: str = "tensor") -> Any:
        x = torch.cat([clip.float() / 255 for clip in inputs])
        if mode != "loss":
            return [0]
        noise = torch.rand(()) + random.random() + np.random.rand()
        return dict(loss=(self.layer(x * noise) ** 2).mean())


class Gated(Noisy):
    """A network with Gumbel gates, whose noise and settings change from iteration to iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = skippose.SkipConv2d(3, 4, 3, gate=dict(type="GumbelGate", init_open=0.0))

    def forward(self, inputs: list[Tensor], data_samples: Any, mode: str = "tensor") -> Any:
        x = torch.cat([clip.float() / 255 for clip in inputs])
        if mode != "loss":
            return [0]
        with skippose.clips(3) as run:
            z = self.layer(x)
        return dict(loss=(z**2).mean() + (run.gate_loss() - 0.3).abs())


class Nothing(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(torch.rand(()).item())  # a metric that draws

    def compute_metrics(self, results: list) -> dict:
        return dict(drawn=random.random() + np.random.rand())


class Kill(Exception):
    pass


class KillAt(Hook):
    def __init__(self, step: int | None) -> None:
        self.step = step
        self.inputs: dict[int, list[Tensor]] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.step:
            raise Kill
        self.inputs[runner.iter] = data_batch["inputs"]


def clip_dataset(data: Path, subset: str, **settings: object) -> dict:
    draws = [
        dict(type="RandomFlip", direction="horizontal"),
        dict(type="RandomBBoxTransform", rotate_factor=60),
        dict(type="PhotometricDistortion"),
    ]
    return dict(
        type="ClipDataset",
        clip_len=3,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="GetBBoxCenterScale"),
            *(draws if subset == "train" else []),
            dict(type="TopdownAffine", input_size=CODEC["input_size"]),
            dict(type="GenerateTarget", encoder=CODEC),
            dict(type="PackPoseInputs"),
        ],
        dataset=dict(
            type="JhmdbDataset",
            data_root=str(data),
            ann_file=f"annotations/Sub1_{subset}.json",
            data_prefix=dict(img=""),
        ),
        **settings,
    )


def stop_workers(runner: Runner) -> None:
    """Without it, ends of workers wait for the collection of garbage and then for a timeout."""
    for loop in (runner.train_loop, runner.val_loop if runner._val_loop else None):
        workers = getattr(loop and loop.dataloader, "_iterator", None)
        if workers is not None:
            workers._shutdown_workers()


class Toy:
    """Trains the noisy network on clips, again and again, in one folder for each run."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.by_epoch, self.workers, self.val, self.every = True, 0, True, 1
        self.seed: int | None = 7
        self.hook = True
        self.sampler = ""
        self.repeat = self.concatenate = 1
        self.loop: type | None = None
        self.model: type[Noisy] = Noisy
        self.batch_sampler: type | None = None
        self.kill: KillAt

    def runner(self, name: str, kill: int | None = None, **options: Any) -> Runner:
        # What is left over from another life must not matter.
        random.seed(), np.random.seed(), torch.seed()
        torch.manual_seed(0)
        model = self.model()
        torch.seed()
        infinite = dict(type="InfiniteSampler", shuffle=True)
        default = dict(type="DefaultSampler", shuffle=True)
        sampler = default if self.by_epoch else infinite
        if self.sampler:
            sampler = dict(type=self.sampler)
        loader = dict(num_workers=self.workers, persistent_workers=self.workers > 0)
        batches = dict(type=self.batch_sampler, drop_last=False) if self.batch_sampler else None
        dataset = clip_dataset(self.data, "train")
        if self.repeat > 1:
            dataset = dict(type="RepeatDataset", times=self.repeat, dataset=dataset)
        if self.concatenate > 1:
            dataset = dict(type="ConcatDataset", datasets=[dataset] * self.concatenate)
        settings: dict = dict(
            model=model,
            work_dir=str(self.folder / name),
            train_dataloader=dict(
                batch_size=2, sampler=sampler, batch_sampler=batches, dataset=dataset, **loader
            ),
            train_cfg=(
                dict(by_epoch=True, max_epochs=4, val_interval=1)
                if self.by_epoch
                else dict(type=self.loop, max_iters=14, val_interval=3)
                if self.loop
                else dict(by_epoch=False, max_iters=14, val_interval=3)
            ),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", by_epoch=self.by_epoch, interval=self.every),
                logger=None,
            ),
            randomness=dict(seed=self.seed),
            experiment_name=f"{self.folder.name}-{name}-{random.random()}",
            default_scope="mmpose",
            log_level="WARNING",
        )
        if self.val:
            dataset = clip_dataset(self.data, "test", test_mode=True)
            settings |= dict(
                val_dataloader=dict(
                    batch_size=1,
                    sampler=dict(type="DefaultSampler", shuffle=False),
                    dataset=dataset,
                    **loader,
                ),
                val_cfg=dict(),
                val_evaluator=[Nothing(prefix="toy")],
            )
        self.kill = KillAt(kill)
        hooks = [ExactResumeHook()] if self.hook else []
        return Runner(**{**settings, "custom_hooks": [*hooks, self.kill], **options})

    def train(self, name: str, kill: int | None = None, **options: Any) -> dict[str, Tensor]:
        """Returns the weights at the end, or where it was killed."""
        runner = self.runner(name, kill, **options)
        try:
            runner.train()
        except Kill:
            assert kill is not None
        finally:
            stop_workers(runner)
        return {key: value.clone() for key, value in runner.model.state_dict().items()}

    def resumed(self, kill: int) -> dict[str, Tensor]:
        name = f"killed-at-{kill}"
        self.train(name, kill)
        return self.train(name, resume=True)


@pytest.fixture
def toy(data: Path, tmp_path: Path, scope: None) -> Toy:
    return Toy(data, tmp_path)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("workers", "kills"), [(0, (7, 10)), (2, (18,))])
def test_by_epoch(toy: Toy, workers: int, kills: tuple[int, ...]) -> None:
    toy.workers = workers
    whole = toy.train("whole")
    steps = len(toy.kill.inputs)
    assert steps == 4 * 5  # five iterations an epoch
    for kill in kills:
        assert equal(toy.resumed(kill), whole)


def test_by_epoch_without_the_hook_is_not_exact(toy: Toy) -> None:
    toy.hook = False
    assert not equal(toy.resumed(7), toy.train("whole"))


@pytest.mark.parametrize(("workers", "kills"), [(0, (3, 12)), (2, (9,))])
def test_by_iteration(toy: Toy, workers: int, kills: tuple[int, ...]) -> None:
    toy.by_epoch, toy.workers, toy.every = False, workers, 2
    whole = toy.train("whole")
    for kill in kills:
        assert equal(toy.resumed(kill), whole)


@pytest.mark.parametrize("kill", [3, 12])
def test_gumbel_gates(toy: Toy, kill: int) -> None:
    toy.by_epoch, toy.every, toy.model = False, 2, Gated
    schedule = GateScheduleHook(temperature=(1.0, 0.5), noise=(1.0, 0.2))
    options: dict[str, Any] = dict(optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.05)))

    def train(name: str, kill: int | None = None, **more: Any) -> dict[str, Tensor]:
        runner = toy.runner(name, kill, **options, **more)
        runner.register_hook(schedule)
        with contextlib.suppress(Kill):
            runner.train()
        stop_workers(runner)
        return {key: value.clone() for key, value in runner.model.state_dict().items()}

    whole = train("whole")
    before = Gated().state_dict()
    for key in ("layer.gate.weight", "layer.gate.bias"):
        assert not torch.equal(whole[key], before[key])
    train("killed", kill)
    assert equal(train("killed", resume=True), whole)


class LoopThatSkipsNothing(IterBasedTrainLoop):
    """Runs as mmengine before 0.10.3 does: resumed, it begins with the sampler's first index."""

    def run(self) -> None:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")


@pytest.mark.parametrize(("workers", "kills"), [(0, (3, 12)), (2, (9,))])
def test_by_iteration_where_mmengine_does_not_skip(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, workers: int, kills: tuple[int, ...]
) -> None:
    toy.by_epoch, toy.workers, toy.every, toy.val = False, workers, 2, False
    whole = toy.train("whole")
    seen = toy.kill.inputs
    monkeypatch.setattr("mmengine.__version__", "0.10.2")
    toy.loop = LoopThatSkipsNothing
    for kill in kills:
        assert equal(toy.resumed(kill), whole)
        assert min(toy.kill.inputs) == kill // 2 * 2
        for step, clips in toy.kill.inputs.items():
            assert all(map(torch.equal, clips, seen[step]))


def test_the_number_of_workers_does_not_matter(toy: Toy) -> None:
    for toy.by_epoch in (True, False):
        runs = []
        for toy.workers in (0, 1, 2):
            weights = toy.train(f"{toy.by_epoch}-{toy.workers}")
            runs.append((weights, toy.kill.inputs))
        for weights, inputs in runs[1:]:
            assert equal(weights, runs[0][0])
            for step, clips in inputs.items():
                assert all(map(torch.equal, clips, runs[0][1][step]))


def test_every_pass_has_draws_of_its_own(toy: Toy) -> None:
    """Nine windows: the same ones come again in another pass, otherwise augmented."""
    for toy.by_epoch in (True, False):
        toy.train(f"{toy.by_epoch}")
        clips = [clip for step in toy.kill.inputs.values() for clip in step]
        assert len(clips) > 20
        assert not any(torch.equal(a, b) for n, a in enumerate(clips) for b in clips[:n])


def test_a_seed_that_nobody_set_is_kept(toy: Toy) -> None:
    toy.seed = None
    toy.train("run")
    whole = toy.kill.inputs
    checkpoint = str(toy.folder / "run" / "epoch_2.pth")
    weights = toy.train("again", resume=True, load_from=checkpoint)
    assert min(toy.kill.inputs) == 10
    for step, clips in toy.kill.inputs.items():
        assert all(map(torch.equal, clips, whole[step]))
    last = torch.load(toy.folder / "run" / "epoch_4.pth", weights_only=False)
    assert equal(weights, last["state_dict"])


def test_the_best_checkpoint_is_one_to_resume_from(toy: Toy) -> None:
    """It is saved at the end of a validation that has drawn."""
    best = CheckpointHook(interval=1, save_best="toy/drawn", rule="greater")
    whole = toy.train("whole", default_hooks=dict(checkpoint=best, logger=None))
    (path,) = (toy.folder / "whole").glob("best_toy_drawn_*.pth")
    epoch = int(path.stem.rsplit("_", 1)[1])
    if epoch < 4:
        assert equal(toy.train("resumed", resume=True, load_from=str(path)), whole)
    else:
        last = torch.load(toy.folder / "whole" / "epoch_4.pth", weights_only=False)
        found = torch.load(path, weights_only=False)
        assert torch.equal(
            found["random_state"]["processes"][0]["torch"],
            last["random_state"]["processes"][0]["torch"],
        )


def test_loading_weights_restores_no_generator(toy: Toy) -> None:
    toy.train("first")
    checkpoint = str(toy.folder / "first" / "epoch_4.pth")
    saved = torch.load(checkpoint, weights_only=False)["random_state"]["processes"][0]
    runner = toy.runner("second", load_from=checkpoint)
    states = []

    class See(Hook):
        priority = "LOWEST"

        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            states.append(torch.get_rng_state())

    runner.register_hook(See())
    runner.train()
    assert len(states) == 20
    assert not torch.equal(states[0], saved["torch"])


def test_workers_that_mmengine_0_10_starts_early(toy: Toy) -> None:
    """There the loop by iteration makes its iterator, and workers fetch, before any hook runs."""
    toy.by_epoch, toy.workers, toy.val = False, 2, False
    toy.train("whole")
    whole = toy.kill.inputs
    runner = toy.runner("early")
    iterator = runner.train_loop.dataloader_iterator
    iterator._iterator = workers = iter(runner.train_loop.dataloader)
    runner.train()
    workers._shutdown_workers()
    stop_workers(runner)
    assert len(toy.kill.inputs) == 14
    for step, clips in toy.kill.inputs.items():
        assert all(map(torch.equal, clips, whole[step]))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(MMLogger, "warning", lambda _, text, *__, **___: messages.append(text))
    return messages


def not_exact(log: list[str]) -> list[str]:
    return [text.partition(": ")[2] for text in log if "not exactly" in text]


def test_what_is_not_exact_is_said(toy: Toy, log: list[str]) -> None:
    toy.val = False
    toy.train("whole")
    folder = toy.folder / "whole"

    # Within an epoch.
    toy.train("within", 8, default_hooks=dict(checkpoint=CheckpointHook(3, by_epoch=False)))
    assert not not_exact(log)
    toy.train("within", resume=True)
    assert not_exact(log) == [
        "the checkpoint was saved after 1 of 5 iterations of an epoch, which begins anew"
    ]
    # Without the hook, and by another number of processes.
    checkpoint = torch.load(folder / "epoch_1.pth", weights_only=False)
    checkpoint["random_state"]["processes"] *= 2
    torch.save(checkpoint, folder / "two.pth")
    del checkpoint["random_state"]
    torch.save(checkpoint, folder / "none.pth")
    log.clear()
    toy.train("none", resume=True, load_from=str(folder / "none.pth"))
    toy.train("two", resume=True, load_from=str(folder / "two.pth"))
    assert not_exact(log) == [
        "the checkpoint holds no states of random generators",
        "it was saved by 2 processes, now there are 1",
    ]
    # Other data sets, other samplers.
    log.clear()
    toy.repeat = 2
    toy.train("repeated", 11)
    toy.train("repeated", 11, resume=True)
    toy.repeat, toy.by_epoch, toy.sampler, toy.every = 1, False, "DefaultSampler", 2
    toy.train("finite", 3)
    toy.train("finite", 4, resume=True)
    assert not_exact(log) == [
        "the draws of RepeatDataset are not seeded by item, as ClipDataset's are",
        "the sampler is DefaultSampler, not InfiniteSampler",
    ]


class Pairs(BatchSampler):
    """A batch sampler of somebody's own, which may use up indices as it likes."""


class LoopToldNotToSkip(LoopThatSkipsNothing):
    """An option of the newest mmengine's loop."""

    fast_forward_on_resume = property(lambda self: True, lambda self, value: None)


def test_what_is_not_exact_by_iteration_is_said(
    toy: Toy, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.by_epoch, toy.every, toy.val, toy.batch_sampler = False, 2, False, Pairs
    toy.train("pairs", 5)
    monkeypatch.setattr("mmengine.__version__", "0.10.2")
    toy.train("pairs", 5, resume=True)
    toy.batch_sampler = BatchSampler
    toy.train("pairs", 5, resume=True)
    monkeypatch.setattr("mmengine.__version__", "0.10.12")
    toy.train("pairs", 5, resume=True)
    assert not_exact(log) == [
        "data already seen come again: the batch sampler Pairs cannot be moved"
    ]
    log.clear()
    toy.loop = LoopToldNotToSkip
    toy.train("pairs", 5, resume=True)
    assert not_exact(log) == ["data already seen come again: fast_forward_on_resume is set"]


def test_concatenated_clips_draw_apart(toy: Toy) -> None:
    toy.concatenate = 2
    whole = toy.train("whole")
    clips = [clip for step in toy.kill.inputs.values() for clip in step]
    assert len(clips) > 70
    assert not any(torch.equal(a, b) for n, a in enumerate(clips) for b in clips[:n])
    assert equal(toy.resumed(12), whole)


# The network of the config made small.
SMALL = [
    "load_from=None",
    "model.backbone.extra.stage1.num_blocks=(1,)",
    "model.backbone.extra.stage1.num_channels=(8,)",
    *(
        f"model.backbone.extra.stage{n}.{key}"
        for n, channels in ((2, "(8,16)"), (3, "(8,16,32)"), (4, "(8,16,32,64)"))
        for key in (
            "num_modules=1",
            f"num_blocks=({','.join('1' * n)})",
            f"num_channels={channels}",
        )
    ),
    "model.head.in_channels=8",
    "optim_wrapper.optimizer.type=AdamW",
    "optim_wrapper.optimizer.lr=0.003",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.clip_len=3",
    "train_dataloader.dataset.indices=6",
    "train_cfg.max_epochs=3",
    "default_hooks.logger.interval=1",
    "randomness.seed=5",
]
# Gates that are learned and draw noise.
CONFIG = ROOT / "configs" / "paper" / "td-hm_skip-hrnet-w32-gumbel_b4x8-20e_jhmdb-sub1-256x256.py"
STEPS = 3 * 3  # epochs, iterations of each


def command_line(data: Path, cwd: Path, *options: str, kill: int | None = None) -> dict:
    """Runs tools/train.py, killed once it has logged `kill` steps; returns the last checkpoint."""
    cwd.mkdir(exist_ok=True)
    env = os.environ | dict(
        SKIPPOSE_DATA=str(data),
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        OMP_NUM_THREADS="1",
    )
    tool = str(ROOT / "tools" / "train.py")
    command = [sys.executable, tool, str(CONFIG), *options, "--work-dir", "out"]
    log, steps = "", 0
    with subprocess.Popen(
        [*command, "--cfg-options", *SMALL],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            log += line
            steps += "Epoch(train)" in line
            if steps == kill:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == (0 if kill is None else -signal.SIGKILL), log[-4000:]
    assert ("resumed epoch" in log) == ("--resume" in options and (cwd / "killed-late").exists())
    path = cwd / "out" / "epoch_3.pth"
    return {} if kill else torch.load(path, weights_only=False, map_location="cpu")


@pytest.mark.slow
def test_killed_on_the_command_line(data: Path, tmp_path: Path) -> None:
    """A shipped config with learned gates, two workers that persist, five kills by SIGKILL."""
    whole = command_line(data, tmp_path / "whole")
    assert whole["meta"]["iter"] == STEPS
    assert any("gate" in key for key in whole["state_dict"])
    for kill in random.Random(0).sample(range(1, STEPS - 1), 5):
        cwd = tmp_path / f"killed-at-{kill}"
        command_line(data, cwd, kill=kill)
        assert not (cwd / "out" / "epoch_3.pth").exists()
        if (cwd / "out" / "last_checkpoint").exists():  # else it begins at the beginning
            (cwd / "killed-late").touch()
        assert kill < 4 or (cwd / "killed-late").exists()
        resumed = command_line(data, cwd, "--resume")
        assert resumed["meta"]["iter"] == STEPS
        assert equal(resumed["state_dict"], whole["state_dict"]), kill
        moments = resumed["optimizer"]["state"], whole["optimizer"]["state"]
        assert all(equal(moments[0][key], moments[1][key]) for key in moments[1]), kill
