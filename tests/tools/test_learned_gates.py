"""The rows of tools/learned_gates.py: configs that exist, with settings that they have."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mmpose")

from mmengine.config import Config

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "learned_gates.py"
SPEC = importlib.util.spec_from_file_location("learned_gates", TOOL)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def value(config: Config, key: str) -> object:
    node = config
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    return node


@pytest.mark.parametrize("name", tool.ROWS)
def test_rows_change_settings_that_are_there(name):
    config_name, settings = tool.ROWS[name]
    config = Config.fromfile(ROOT / f"{tool.CONFIGS}{config_name}.py")
    for setting in settings:
        key, _, text = setting.partition("=")
        if key in ("randomness.seed", "model.backbone.gate.source", "model.backbone.gate.block"):
            continue  # defaults of mmengine and of the gate
        if key == "load_from":
            assert (ROOT / text).is_file()
            continue
        if key == "model.backbone.reference":
            assert {value(config, key), text} == {"hold", "previous"}
            continue
        assert isinstance(value(config, key), float | int), key
        assert float(text) > 0
    assert config.train_cfg.max_iters == config.param_scheduler[1].end
    args = SimpleNamespace(iters=None, work_dir=Path("work"))
    iters = dict(s.split("=") for s in settings).get(
        "train_cfg.max_iters", config.train_cfg.max_iters
    )
    assert tool.checkpoint(name, args).name == f"iter_{iters}.pth"


def test_rows_have_folders_of_their_own():
    args = SimpleNamespace(work_dir=Path("work"))
    folders = {tool.folder(name, args) for name in tool.ROWS}
    assert len(folders) == len(tool.ROWS)
    assert all(len(folder.parts) == 2 for folder in folders)


def test_norm_gates_to_compare_with_are_configs_of_the_same_network(tmp_path):
    listed = tool.fragments(SimpleNamespace(work_dir=tmp_path, eps=[0.15]))
    assert all((ROOT / weights).is_file() for *_, weights in listed)
    found = {name: path for name, path, _ in listed}
    assert {"learned, calibrated/0.25", "calibrated/global", "untrained norm/0.15"} <= set(found)
    assert "joint 0.25, calibrated/33" in found
    assert not set(found) & {*tool.ROWS, tool.FIRST}
    dense = Config.fromfile(ROOT / tool.DENSE[0]).model.backbone.extra
    for name, path in found.items():
        model = Config.fromfile(path).model
        assert model.backbone.extra == dense, name
        gates = [model.backbone.gate, *model.get("overrides", {}).values()]
        # What is learned is in the config, not in a checkpoint that is not there.
        assert {gate["type"] for gate in gates[1:] or gates} == {"InputNormGate"}, name


def test_finished_rows_are_skipped_and_unknown_ones_refused(tmp_path):
    done = tmp_path / "learned-thresholds_0.25" / "iter_7.pth"
    done.parent.mkdir()
    done.touch()
    command = [sys.executable, TOOL, "train", "--iters", "7", "--work-dir", tmp_path]
    found = subprocess.run(
        [*command, "--rows", "learned thresholds/0.25"], capture_output=True, text=True
    )
    assert found.returncode == 0 and "learned thresholds/0.25: there already" in found.stdout
    found = subprocess.run([*command, "--rows", "learnt/0.1"], capture_output=True, text=True)
    assert found.returncode == 2 and "no row 'learnt/0.1'" in found.stderr
    found = subprocess.run([*command, "learned/0.25"], capture_output=True, text=True)
    assert found.returncode == 2 and "knows no learned/0.25" in found.stderr
    command[2] = "compare"
    found = subprocess.run([*command, "--rows", "learnt/0.1"], capture_output=True, text=True)
    assert found.returncode == 2 and "no row 'learnt/0.1'" in found.stderr
