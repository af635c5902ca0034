"""Every tool, and every public way to load: a checkpoint that runs code is refused in one line."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmpose")

from mmengine.config import Config
from mmengine.registry import DefaultScope

import skippose
from skippose.checkpoints import CheckpointError, load_checkpoint
from skippose.evaluation.comparison import build_network

from ..checkpoints.evil import evil_checkpoint

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "demo" / "skip_hrnet_small.py")
WEIGHTS = ROOT / "configs" / "demo" / "hrnet_small_synthetic.pth"


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


@pytest.fixture
def evil(tmp_path: Path, ran: Path) -> Path:
    """Good weights, and something that runs."""
    return evil_checkpoint(tmp_path / "evil.pth", ran, WEIGHTS, meta=dict(epoch=1, iter=6))


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, synthetic_clips: Path, tmp_path: Path) -> Callable:
    """Loads a tool, for data and a folder of its own."""
    monkeypatch.setenv("SKIPPOSE_SYNTHETIC", str(synthetic_clips))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "tools"))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    with DefaultScope.overwrite_default_scope("mmpose"):
        yield load


def refused(error: BaseException, path: Path) -> None:
    message = str(error)
    assert f"{path} is refused: it asks for more than weights (" in message, message
    assert "open" in message and "--allow-checkpoint-code" in message and "\n" not in message


# -- in Python -----------------------------------------------------------------------------------

IN_PYTHON: dict[str, Callable[..., object]] = {
    "load_checkpoint": lambda path, **flag: load_checkpoint(path, **flag),
    "build_network": lambda path, **flag: build_network(
        Config.fromfile(CONFIG).model.to_dict(), str(path), **flag
    ),
    "VideoPose": lambda path, **flag: skippose.VideoPose(
        CONFIG, path, masks=False, backend="eager", **flag
    ),
}


@pytest.mark.parametrize("entry", IN_PYTHON)
def test_in_python(entry, evil, ran):
    with pytest.raises(CheckpointError) as error:
        IN_PYTHON[entry](evil)
    refused(error.value, evil)
    assert not ran.exists()
    IN_PYTHON[entry](evil, allow_checkpoint_code=True)
    assert ran.exists()


# -- tools ---------------------------------------------------------------------------------------

NO_WORKERS = [
    f"{part}_dataloader.{key}"
    for part in ("train", "val", "test")
    for key in ("num_workers=0", "persistent_workers=False")
]
SHORT = [*NO_WORKERS, "train_cfg.max_epochs=1", "train_dataloader.dataset.indices=4"]


def demo(evil: Path, tmp_path: Path) -> list[str]:
    cv2.imwrite(str(tmp_path / "frame.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frame.png").rename(tmp_path / "frames" / "1.png")
    options = ["--config", CONFIG, "--checkpoint", str(evil), "--whole-frame", "--no-masks"]
    return ["frames", *options, "--backend", "eager", "--out", "out.gif"]


def latest(evil: Path, tmp_path: Path) -> list[str]:
    """A work directory whose latest checkpoint is somebody else's."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "last_checkpoint").write_text(str(evil))
    return [CONFIG, "--work-dir", "work", "--resume", "--cfg-options", *SHORT]


# Tool, and what makes its arguments of the checkpoint.
TOOLS: dict[str, tuple[str, Callable[[Path, Path], list[str]]]] = {
    "demo": ("demo", demo),
    "compare": (
        "compare",
        lambda evil, _: [CONFIG, str(evil), "--out", "out", "--clips", "1", "--cache", "cache"],
    ),
    "calibrate": (
        "calibrate",
        lambda evil, _: [
            CONFIG, str(evil), "--target-gmacs", "0.07", "--out", "out.py", "--clips", "1",
            "--frames", "2", "--choose", "order", "--cache", "cache", "--global",
        ],
    ),
    "visualize_gates": (
        "visualize_gates",
        lambda evil, _: [CONFIG, str(evil), "--out", "out", "--frames", "2", "--gif"],
    ),
    "publish_checkpoint": ("publish_checkpoint", lambda evil, _: [str(evil), "out.pth"]),
    "test": ("test", lambda evil, _: [CONFIG, str(evil), "--cfg-options", *NO_WORKERS]),
    "train, load_from": (
        "train",
        lambda evil, _: [CONFIG, "--cfg-options", f"load_from={evil}", *SHORT],
    ),
    "train, --resume FILE": (
        "train",
        lambda evil, _: [CONFIG, "--resume", str(evil), "--cfg-options", *SHORT],
    ),
    "train, --resume": ("train", latest),
    "train, init_cfg": (
        "train",
        lambda evil, _: [
            CONFIG, "--cfg-options", "load_from=None", *SHORT,
            "model.init_cfg.type=Pretrained", f"model.init_cfg.checkpoint={evil}",
        ],
    ),
}  # fmt: skip
QUICK = ("demo", "visualize_gates", "publish_checkpoint", "test", "compare")  # with the flag


def start(module: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()


# All trainings load in the same way: one of them is quick enough.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("train, -") else [])
        for name in TOOLS
    ],
)
def test_tools(name, tool, evil, ran, tmp_path, monkeypatch, capfd):
    file, arguments = TOOLS[name]
    before = {path.name for path in tmp_path.iterdir()}
    given = arguments(evil, tmp_path)
    with pytest.raises(SystemExit) as error:
        start(tool(file), given, monkeypatch)
    said = capfd.readouterr().err
    assert error.value.code not in (0, None)
    # argparse prints what is wrong itself; of others Python prints it.
    refused(ValueError(said.splitlines()[-1]) if error.value.code == 2 else error.value, evil)
    assert not ran.exists()
    written = {path.name for path in tmp_path.iterdir()} - before
    assert not written & {"out", "out.py", "out.pth", "out.gif", "out.csv", "out.md"}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_tools_that_are_allowed_to(name, tool, evil, ran, tmp_path, monkeypatch):
    file, arguments = TOOLS[name]
    start(tool(file), [*arguments(evil, tmp_path), "--allow-checkpoint-code"], monkeypatch)
    assert ran.exists()


def test_every_tool_that_loads_is_tested():
    tools = {file for file, _ in TOOLS.values()}
    loading = ("build_network(", "VideoPose(", "load_checkpoint(", "build_runner(", "Calibration(")
    for path in (ROOT / "tools").glob("[!_]*.py"):
        if any(word in path.read_text() for word in loading) and path.stem != "gate_grid":
            assert path.stem in tools, path  # gate_grid has its one checkpoint written into it


# -- the detector, and files of boxes and annotations --------------------------------------------


def test_the_detector_of_people(evil, ran, monkeypatch):
    """What mmdet fetches is loaded as everything else."""
    from types import SimpleNamespace

    from mmengine.runner import load_checkpoint as of_mmengine

    from skippose.video import boxes

    apis = SimpleNamespace(
        DetInferencer=lambda model, weights, **_: of_mmengine(torch.nn.Linear(1, 1), weights, "cpu")
    )
    default = SimpleNamespace(default_det_models={"human": dict(model="m", weights=str(evil))})
    monkeypatch.setattr(boxes, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "mmdet", SimpleNamespace(apis=apis))
    monkeypatch.setitem(sys.modules, "mmdet.apis", apis)
    monkeypatch.setitem(sys.modules, "mmpose.apis.inferencers.utils", default)
    with pytest.raises(CheckpointError) as error:
        boxes.person_detector()
    refused(error.value, evil)
    assert not ran.exists()
    boxes.person_detector(allow_checkpoint_code=True)
    assert ran.exists()
