"""tools/train.py and tools/test.py take mmpose's options and make the same config of them."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mmpose")

import mmpose
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "skip_hrnet_w32.py")
THEIRS = Path(mmpose.__file__).parent / ".mim" / "tools"
if not THEIRS.is_dir():
    pytest.skip("this mmpose was installed without its tools", allow_module_level=True)


def load(path: Path, monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"tool_{path.parent.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def merged(tool: str, options: list[str], monkeypatch) -> tuple[dict, dict]:
    """The config that our tool makes of a command line, and the one that mmpose's makes."""
    monkeypatch.setattr(sys, "argv", [tool, *options])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    ours = load(ROOT / "tools" / tool, monkeypatch)
    mine = ours.merge(ours.parse_args())
    rank = os.environ.pop("LOCAL_RANK")
    theirs = load(THEIRS / tool, monkeypatch)
    args = theirs.parse_args()
    other = theirs.merge_args(Config.fromfile(args.config), args)
    assert os.environ.pop("LOCAL_RANK") == rank
    for config in (mine, other):
        config.work_dir = os.path.normpath(config.work_dir)
    return mine.to_dict(), other.to_dict()


@pytest.mark.parametrize("tool", ["train.py", "test.py"])
def test_no_option_is_missing(tool, capsys, monkeypatch):
    """By the text of mmpose's file, so that an option of a newer mmpose is noticed."""
    wanted = set(re.findall(r"'(--[a-z_-]+)'", (THEIRS / tool).read_text()))
    assert {"--work-dir", "--cfg-options", "--launcher"} <= wanted
    wanted.discard("--cfg-options")  # also named in a help text, with its closing quote
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    with pytest.raises(SystemExit):
        load(ROOT / "tools" / tool, monkeypatch).parse_args()
    shown = set(re.findall(r"--[a-z_-]+", capsys.readouterr().out))
    assert wanted <= shown, wanted - shown


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--work-dir", "somewhere/else", "--amp", "--auto-scale-lr"],
        ["--resume", "epoch_3.pth", "--no-validate"],
        ["--show-dir", "pictures", "--interval", "7", "--local-rank", "1"],
        ["--show", "--wait-time", "2.5"],
        ["--cfg-options", "load_from=None", "model.backbone.gate.eps=0.5", "resume=True"],
        ["--launcher", "pytorch", "--local_rank", "3"],
    ],
    ids=" ".join,
)
def test_train_makes_the_same_config(options, monkeypatch):
    monkeypatch.setattr("mmengine.device.get_device", lambda: "cuda")  # see below for a CPU
    mine, theirs = merged("train.py", [CONFIG, *options], monkeypatch)
    assert mine == theirs


def test_mixed_precision_on_a_cpu(monkeypatch):
    monkeypatch.setattr("mmengine.device.get_device", lambda: "cpu")
    mine, theirs = merged("train.py", [CONFIG, "--amp"], monkeypatch)
    assert theirs["optim_wrapper"].pop("type") == "AmpOptimWrapper"  # which needs an accelerator
    assert theirs["optim_wrapper"].pop("loss_scale") == "dynamic"
    assert mine["optim_wrapper"].pop("type") == "BFloat16OptimWrapper"
    assert mine["model"].pop("train_cfg") == dict(compute_acc=False)
    theirs["model"].pop("train_cfg", None)
    assert mine == theirs


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--work-dir", "somewhere/else", "--dump", "out.pkl", "--out", "metrics.json"],
        ["--show-dir", "pictures", "--interval", "7"],
        ["--show", "--wait-time", "2.5"],
        ["--badcase", "--show", "--interval", "3"],
        ["--cfg-options", "model.test_cfg.mode=stream"],
        ["--launcher", "pytorch"],
    ],
    ids=" ".join,
)
def test_test_makes_the_same_config(options, monkeypatch):
    if "--badcase" in options and "--badcase" not in (THEIRS / "test.py").read_text():
        pytest.skip("mmpose 1.1 has no --badcase")
    mine, theirs = merged("test.py", [CONFIG, "epoch_20.pth", *options], monkeypatch)
    assert mine == theirs


def test_resume_takes_the_latest_checkpoint(monkeypatch, tmp_path):
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    options = [CONFIG, "--resume", "--work-dir", str(tmp_path)]
    mine, theirs = merged("train.py", options, monkeypatch)
    assert mine == theirs
    assert (mine["resume"], mine["load_from"]) == (True, None)
    mine, _ = merged("train.py", [*options, "--cfg-options", "load_from=x.pth"], monkeypatch)
    assert (mine["resume"], mine["load_from"]) == (True, None)


def test_resume_without_a_checkpoint_starts_as_the_config_does(monkeypatch, tmp_path, capsys):
    options = [CONFIG, "--resume", "--work-dir", str(tmp_path)]
    mine, _ = merged("train.py", options, monkeypatch)
    start = Config.fromfile(CONFIG).load_from
    assert (mine["resume"], mine["load_from"]) == (False, start)
    said = capsys.readouterr().out
    assert f"no checkpoint in {tmp_path} yet; starts from {start}" in said
    merged("train.py", [*options, "--cfg-options", "load_from=None"], monkeypatch)
    assert "starts from random weights" in capsys.readouterr().out


def test_load_from_none_trains_from_scratch(monkeypatch):
    mine, _ = merged("train.py", [CONFIG, "--cfg-options", "load_from=None"], monkeypatch)
    assert mine["load_from"] is None
    assert "init_cfg" not in mine["model"]["backbone"]  # nothing else is downloaded
    assert Config.fromfile(CONFIG).load_from.startswith("https://")


def test_the_given_checkpoint_is_tested_whatever_the_options_say(monkeypatch):
    options = [CONFIG, "epoch_20.pth", "--cfg-options", "load_from=None"]
    mine, _ = merged("test.py", options, monkeypatch)
    assert mine["load_from"] == "epoch_20.pth"


@pytest.mark.parametrize(
    ("tool", "options", "message"),
    [
        ("train.py", ["--amp", "--cfg"], "--cfg"),
        ("test.py", ["x.pth", "--dump", "out.json"], "out.json"),
        ("test.py", ["x.pth", "--out", "m.csv"], "m.csv"),
        ("test.py", ["x.pth", "--out", f"{CONFIG}/m.json"], "m.json cannot be written"),
    ],
)
def test_bad_options_are_named(tool, options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [tool, CONFIG, *options])
    with pytest.raises(SystemExit):
        load(ROOT / "tools" / tool, monkeypatch).parse_args()
    assert message in capsys.readouterr().err
