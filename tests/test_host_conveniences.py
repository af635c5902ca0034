"""mmpose's and mmengine's own conveniences on the shipped configs.

Their tools know nothing of clips: one frame is the dense network.
"""

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmpose")

import skippose  # before mmpose.apis

# isort: split
import mmpose
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, save_checkpoint
from mmpose.apis import MMPoseInferencer, inference_topdown, init_model

ROOT = Path(__file__).parents[1]
OURS = ROOT / "tools"
THEIRS = Path(mmpose.__file__).parent / ".mim" / "tools"
FLOPS = THEIRS / "analysis_tools" / "get_flops.py"
HEADLINE = ROOT / "configs" / "skip_hrnet_w32.py"
GUMBEL = ROOT / "configs/paper/td-hm_skip-hrnet-w32-gumbel_b4x8-20e_jhmdb-sub1-256x256.py"
NORM = ROOT / "configs/paper/td-hm_skip-hrnet-w32-norm_b4x8-20e_jhmdb-sub1-256x256.py"
DEMO = ROOT / "configs" / "demo" / "skip_hrnet_small.py"

# The network and the images of a config made small; everything else stays as users have it.
WIDTHS = (8, 16, 32, 64)
SMALL: dict[str, Any] = {
    "model.backbone.extra.stage1.num_blocks": (1,),
    "model.backbone.extra.stage1.num_channels": (8,),
    "model.head.in_channels": 8,
}
for stage in (2, 3, 4):
    SMALL[f"model.backbone.extra.stage{stage}.num_modules"] = 1
    SMALL[f"model.backbone.extra.stage{stage}.num_blocks"] = (1,) * stage
    SMALL[f"model.backbone.extra.stage{stage}.num_channels"] = WIDTHS[:stage]
# A few iterations of training, in this process.
SHORT: dict[str, Any] = {
    "load_from": None,
    "param_scheduler": None,
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.indices": 6,
    "default_hooks.logger.interval": 1,
    "log_processor.window_size": 1,
    "randomness.seed": 0,
}

needs_tools = pytest.mark.skipif(
    not THEIRS.is_dir(), reason="this mmpose was installed without its tools"
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with DefaultScope.overwrite_default_scope("mmpose"):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three synthetic clips to train on and one to test on, in JHMDB's layout."""
    out = tmp_path_factory.mktemp("synthetic") / "data"
    tool = OURS / "dataset_converters" / "synthetic.py"
    run([tool, "--out", out, "--clips", 4, "--workers", 1], cwd=ROOT)
    return out


@pytest.fixture
def image() -> np.ndarray:
    return (
        np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    )


def environment(data: Path | None = None) -> dict[str, str]:
    env = os.environ | dict(
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        OMP_NUM_THREADS="1",
    )
    return env | (dict(SKIPPOSE_DATA=str(data), SKIPPOSE_SYNTHETIC=str(data)) if data else {})


def run(arguments: list[object], cwd: Path, data: Path | None = None) -> str:
    """Runs Python in a process of its own; returns all that it prints."""
    done = subprocess.run(
        [sys.executable, *(str(part) for part in arguments)],
        cwd=cwd,
        env=environment(data),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def small(path: Path, **options: Any) -> Config:
    """A shipped config with a small network."""
    config = Config.fromfile(path)
    if path != DEMO:
        config.merge_from_dict(SMALL)
    config.merge_from_dict(options)
    return config


def dense_twin(config: Config) -> Config:
    """The same network as mmpose alone would build it."""
    twin = copy.deepcopy(config)
    model = twin.model
    model.type = "TopdownPoseEstimator"
    model.data_preprocessor.type = "PoseDataPreprocessor"
    model.pop("gate_loss", None)
    model.backbone = dict(
        type="HRNet", in_channels=model.backbone.in_channels, extra=model.backbone.extra
    )
    twin.custom_imports = None
    return twin


def randomise(model: torch.nn.Module) -> None:
    """Weights with which heat maps differ from place to place, and statistics unlike 0 and 1."""
    draw = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.fill_(0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=draw) * 0.1 + ("var" in name))


def checkpoint_of(model: torch.nn.Module, path: Path) -> Path:
    """As mmengine's runner saves it."""
    meta = dict(dataset_meta=getattr(model, "dataset_meta", None))
    save_checkpoint(dict(state_dict=model.state_dict(), meta=meta), str(path))
    return path


def train(config: Config, data: Path, work_dir: Path, *hooks: Hook) -> Runner:
    """Trains in this process."""
    for phase in ("train", "val", "test"):
        loader = config[f"{phase}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.dataset.data_root = str(data)
    config.work_dir = str(work_dir)
    config.experiment_name = re.sub(r"\W", "_", str(work_dir))  # runners are known by name
    runner = Runner.from_cfg(config)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def scalars(work_dir: Path) -> list[dict]:
    """The log's records of training iterations, those of the newest run."""
    log = sorted(work_dir.glob("*/vis_data/scalars.json"))[-1]
    return [r for r in map(json.loads, log.read_text().splitlines()) if "loss" in r]


# -- inference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [DEMO, HEADLINE, NORM, GUMBEL], ids=lambda p: p.stem)
def test_one_frame_is_the_dense_network(path, image, tmp_path):
    """`init_model` and `inference_topdown`, whatever was seen before."""
    config = small(path)
    model = init_model(copy.deepcopy(config), device="cpu")
    assert model.dataset_meta["dataset_name"] == "jhmdb"
    assert model.dataset_meta["num_keypoints"] == config.model.head.out_channels
    gated = [isinstance(m, skippose.SkipConv2d) and m.gate is not None for m in model.modules()]
    randomise(model)
    file = checkpoint_of(model, tmp_path / "gated.pth")
    model = init_model(config, str(file), device="cpu")
    twin = init_model(dense_twin(config), str(file), device="cpu")
    assert not any(isinstance(m, skippose.SkipConv2d) for m in twin.modules())
    assert sum(gated) == sum(type(m) is torch.nn.Conv2d for m in twin.modules()) > 30

    boxes = np.array([[10, 5, 120, 100], [0, 0, 160, 120]], np.float32)
    for shown in (image, image[:, ::-1].copy(), image):
        found = inference_topdown(model, shown, boxes)
        expected = inference_topdown(twin, shown, boxes)
        assert len(found) == len(expected) == len(boxes)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                a.pred_instances.keypoint_scores, b.pred_instances.keypoint_scores, rtol=1e-4
            )
            np.testing.assert_array_equal(a.pred_instances.keypoints, b.pred_instances.keypoints)
        assert len(np.unique(found[0].pred_instances.keypoints)) > 2


@pytest.mark.parametrize("path", [DEMO, HEADLINE], ids=lambda p: p.stem)
def test_inferencer(path, image, tmp_path):
    """`MMPoseInferencer` with a config's path and a checkpoint, on the whole image."""
    config = small(path)
    model = init_model(copy.deepcopy(config), device="cpu")
    randomise(model)
    file = checkpoint_of(model, tmp_path / "gated.pth")
    if path != DEMO:  # the shrunk config needs a file
        config.dump(tmp_path / "config.py")
        path = tmp_path / "config.py"
    inferencer = MMPoseInferencer(
        pose2d=str(path), pose2d_weights=str(file), det_model="whole_image", device="cpu"
    )
    (result,) = inferencer(image, return_vis=True)
    ((person,),) = result["predictions"]
    (expected,) = inference_topdown(model, image)
    np.testing.assert_allclose(person["keypoints"], expected.pred_instances.keypoints[0])
    assert result["visualization"][0].shape == image.shape


@needs_tools
@pytest.mark.slow
def test_flops_are_those_of_the_dense_network(tmp_path):
    """`get_flops.py` imports mmpose.apis first and is started through `python -m skippose`."""
    results = []
    for name, config in (("gated", small(HEADLINE)), ("dense", dense_twin(small(HEADLINE)))):
        config.dump(tmp_path / f"{name}.py")
        text = run(["-m", "skippose", FLOPS, f"{name}.py", "--input-shape", 64, 64], cwd=tmp_path)
        results.append(re.findall(r"^(?:Input shape|Flops|Params): .*", text, re.MULTILINE))
    assert len(results[0]) == 3 and results[0] == results[1]


# -- the launcher ---------------------------------------------------------------------------------


def test_launcher_runs_a_script_as_python_does(tmp_path):
    (tmp_path / "neighbour.py").write_text("VALUE = 'beside the script'\n")
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "assert 'skippose' in sys.modules and 'mmpose.models' in sys.modules\n"
        "from neighbour import VALUE\n"
        "if __name__ == '__main__':\n"
        "    print([VALUE, __file__, *sys.argv])\n"
    )
    script = str(tmp_path / "script.py")
    text = run(["-m", "skippose", script, "--option", "-h"], cwd=ROOT)
    assert str(["beside the script", script, script, "--option", "-h"]) in text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "python -m skippose SCRIPT"),
        (["--help"], 0, "python -m skippose SCRIPT"),
        (["no_such_script.py"], 1, "there is no script no_such_script.py"),
    ],
)
def test_launcher_says_how_it_is_used(arguments, status, words, capfd, monkeypatch):
    from skippose import __main__

    monkeypatch.setattr(sys, "argv", ["skippose", *arguments])
    with pytest.raises(SystemExit) as error:
        __main__.main()
    said = "".join(capfd.readouterr()) + (str(error.value) if status == 1 else "")
    assert words in said
    assert error.value.code == (status if status != 1 else said)


# -- training -------------------------------------------------------------------------------------


def command_line(**options: Any) -> list[str]:
    return ["--cfg-options", *(f"{key}={value}" for key, value in (SHORT | options).items())]


@needs_tools
@pytest.mark.slow
def test_mim_train(data, tmp_path):
    """`mim train mmpose CONFIG`, from a directory that is not ours.

    Where openmim is not installed: what it runs, its probing of the options included.
    """
    rest = ["--launcher", "none", "--work-dir", "work", "--no-validate", *command_line()]
    if importlib.util.find_spec("mim") is not None:
        run(["-m", "mim", "train", "mmpose", DEMO, "--gpus", 0, *rest], cwd=tmp_path, data=data)
    else:
        assert "--gpus" not in run([THEIRS / "train.py", "-h"], cwd=tmp_path)
        run([THEIRS / "train.py", DEMO, *rest], cwd=tmp_path, data=data)
    assert (tmp_path / "work" / "epoch_1.pth").exists()
    assert len(scalars(tmp_path / "work")) == 3


@pytest.mark.parametrize(
    "tools", [OURS, pytest.param(THEIRS, marks=needs_tools)], ids=["ours", "mmpose"]
)
@pytest.mark.slow
def test_scaled_learning_rate_and_resume(tools, data, tmp_path):
    """``--auto-scale-lr`` scales by batch size over the config's; ``--resume`` goes on."""
    train_py = [tools / "train.py", DEMO, "--work-dir", tmp_path, "--no-validate"]
    options = command_line(**{"optim_wrapper.optimizer.lr": 1e-3})
    run([*train_py, "--auto-scale-lr", *options], cwd=ROOT, data=data)
    first = scalars(tmp_path)
    base = Config.fromfile(DEMO).auto_scale_lr.base_batch_size
    assert [r["step"] for r in first] == [1, 2, 3]
    assert [r["lr"] for r in first] == pytest.approx([1e-3 * 2 / base] * 3)

    longer = [*options, "train_cfg.max_epochs=2"]
    run([*train_py, "--auto-scale-lr", "--resume", *longer], cwd=ROOT, data=data)
    assert [(r["epoch"], r["step"]) for r in scalars(tmp_path)] == [(2, 4), (2, 5), (2, 6)]
    assert [r["lr"] for r in scalars(tmp_path)] == pytest.approx([1e-3 * 2 / base] * 3)
    one, two = (
        torch.load(tmp_path / f"epoch_{n}.pth", map_location="cpu", weights_only=False)
        for n in (1, 2)
    )
    assert two["meta"]["iter"] == 6 and one["meta"]["iter"] == 3
    step = {n["step"].item() for n in two["optimizer"]["state"].values()}
    assert step == {6}, "the optimiser went on from its own state"
    # One image needs no data set: the checkpoint carries its meta information.
    assert two["meta"]["dataset_meta"]["dataset_name"] == "jhmdb"


@pytest.mark.slow
@pytest.mark.parametrize("path", [DEMO, GUMBEL], ids=lambda p: p.stem)
def test_mixed_precision(path, data, tmp_path):
    """What ``--amp`` sets up (tests/tools/test_options.py): mmengine's wrapper; ours on a CPU."""
    config = small(path, **SHORT)
    if torch.cuda.is_available():
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.loss_scale = "dynamic"
    else:
        config.optim_wrapper.type = "BFloat16OptimWrapper"
        config.model.train_cfg = dict(compute_acc=False)
    kinds = set()
    losses = []

    class Watch(Hook):
        def before_train(self, runner: Runner) -> None:
            self.before = copy.deepcopy(runner.model.state_dict())
            for module in runner.model.modules():
                if isinstance(module, skippose.SkipConv2d):
                    module.register_forward_hook(lambda m, x, y: kinds.add(y.dtype))

        def after_train_iter(
            self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            losses.append(float(outputs["loss"]))
            self.after = copy.deepcopy(runner.model.state_dict())

    watch = Watch()
    train(config, data, tmp_path, watch)
    half = torch.float16 if torch.cuda.is_available() else torch.bfloat16
    assert half in kinds, kinds
    assert len(losses) == 3 and np.isfinite(losses).all()
    for name, value in watch.after.items():
        assert value.dtype == watch.before[name].dtype, name
        assert torch.isfinite(value).all(), name
    weights = [name for name in watch.after if name.endswith("weight")]
    moved = [not torch.equal(watch.after[name], watch.before[name]) for name in weights]
    assert np.mean(moved) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("path", [DEMO, GUMBEL], ids=lambda p: p.stem)
def test_moving_average(path, data, tmp_path):
    """EMAHook: validation and checkpoints are of the average, also of gates that learn."""
    momentum = 0.25
    config = small(path, **SHORT)
    config.custom_hooks = [
        *config.custom_hooks,
        dict(
            type="EMAHook",
            ema_type="ExponentialMovingAverage",
            momentum=momentum,
            update_buffers=True,
            priority=49,
        ),
    ]
    average: dict[str, torch.Tensor] = {}
    validated: dict[str, torch.Tensor] = {}

    class Watch(Hook):
        """The average by hand."""

        priority = "VERY_LOW"

        def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
            for name, value in runner.model.state_dict().items():
                if name not in average or not value.is_floating_point():
                    average[name] = value.clone()
                else:
                    average[name].lerp_(value, momentum)

        def before_val_epoch(self, runner: Runner) -> None:
            validated.update(copy.deepcopy(runner.model.state_dict()))

    runner = train(config, data, tmp_path, Watch())
    saved = torch.load(tmp_path / "epoch_1.pth", map_location="cpu", weights_only=False)
    assert saved["state_dict"].keys() == average.keys() == validated.keys()
    if path == GUMBEL:
        assert any("gate." in name for name in average)
    differs = 0
    for name, value in average.items():
        if value.is_floating_point():
            torch.testing.assert_close(saved["state_dict"][name].cpu(), value.cpu())
            torch.testing.assert_close(validated[name].cpu(), value.cpu())
            differs += not torch.allclose(runner.model.state_dict()[name], value)
    assert differs > len(average) / 4, "the average is not the last iteration's"


@pytest.mark.parametrize("path", [DEMO, GUMBEL], ids=lambda p: p.stem)
def test_load_from_a_dense_checkpoint(path, data, tmp_path, capfd):
    """A dense HRNet's checkpoint is complete but for the gates' own parameters."""
    config = small(path, **SHORT)
    twin = init_model(dense_twin(config), device="cpu")
    randomise(twin)
    config.load_from = str(checkpoint_of(twin, tmp_path / "dense.pth"))
    for phase in ("train", "val", "test"):
        config[f"{phase}_dataloader"].dataset.dataset.data_root = str(data)
    config.work_dir = str(tmp_path)
    config.experiment_name = re.sub(r"\W", "_", str(tmp_path))
    runner = Runner.from_cfg(config)
    gates = {k: v.clone() for k, v in runner.model.state_dict().items() if ".gate." in k}
    learned = [name for name, _ in runner.model.named_parameters() if ".gate." in name]
    assert bool(learned) == (path == GUMBEL)
    capfd.readouterr()
    runner.load_or_resume()
    report = "".join(capfd.readouterr())
    assert "unexpected key" not in report and "size mismatch" not in report
    missing = re.search(r"missing keys in source state_dict: (.*)", report)
    named = set(missing[1].split(", ")) if missing else set()
    assert {name.strip() for name in named} == gates.keys()

    loaded, dense = runner.model.state_dict(), twin.state_dict()
    assert loaded.keys() == dense.keys() | gates.keys()
    for name, value in (dense | gates).items():
        assert torch.equal(loaded[name], value), name
