"""tools/gate_grid.py"""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("mmpose")
pytest.importorskip("rich")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        spec = importlib.util.spec_from_file_location("gate_grid", ROOT / "tools/gate_grid.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def test_cells_are_the_full_product(tool):
    cells = tool.cells()
    assert len(cells) == 3 * 2 * 3 * 4
    settings = {json.dumps(s, sort_keys=True) for n, s in cells.items() if "calibrated" not in n}
    assert len(settings) == 3 * 2 * 2 * 4


def test_cells_that_are_not_there_are_refused(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(["thresholds", "--only", "exact", "nope"])
    said = capsys.readouterr().err
    assert "no cell's name holds 'nope'" in said and "output, hold, block 4/relative" in said


def test_compare_takes_all_cells(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(["compare", "--only", "exact"])
    assert "compare takes all in the file" in capsys.readouterr().err


@pytest.mark.slow
def test_cells_meet_the_budget_and_are_found_once(tool, synthetic_clips, tmp_path, monkeypatch):
    monkeypatch.setenv("SKIPPOSE_SYNTHETIC", str(synthetic_clips))
    monkeypatch.setattr(tool, "CONFIG", str(ROOT / "configs/demo/skip_hrnet_small.py"))
    monkeypatch.setattr(tool, "CHECKPOINT", str(ROOT / "configs/demo/hrnet_small_synthetic.pth"))
    monkeypatch.setattr(tool, "FILE", tmp_path / "cells.json")
    monkeypatch.setattr(tool, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(tool, "BUDGET", 0.07)
    monkeypatch.setattr(
        tool, "FEW", ["--clips", "2", "--frames", "5", "--levels", "3", "--rounds", "1"]
    )
    tool.main(["thresholds", "--only", "exact, hold, block 4/"])
    known = json.loads(tool.FILE.read_text())["variants"]
    assert list(known) == [f"exact, hold, block 4/{s}" for s in tool.SCALES]
    relative, absolute, layers = known.values()
    assert relative["model.backbone.gate.eps"] != absolute["model.backbone.gate.eps"]
    gates = layers["model.overrides"].values()
    assert len({gate["eps"] for gate in gates}) > 1
    assert all((gate["type"], gate["block"]) == ("ExactNormGate", 4) for gate in gates)
    stores = {p.name: p.stat().st_mtime_ns for p in tool.CACHE.glob("*.json")}
    gmacs = [
        found[0]
        for path in tool.CACHE.glob("*relative.json")
        for found in json.loads(path.read_text())["results"].values()
    ]
    assert any(abs(x / 0.07 - 1) < 0.03 for x in gmacs)
    tool.main(["thresholds", "--only", "exact, hold, block 4/"])
    assert {p.name: p.stat().st_mtime_ns for p in tool.CACHE.glob("*.json")} == stores
