"""tools/calibrate.py"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmpose")

import torch
from mmengine.config import Config
from rich.progress import Progress

import skippose
from skippose.evaluation.clip_bank import build_dataset, load_clips
from skippose.evaluation.comparison import build_network
from skippose.layers import SkipConv2d

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/demo/skip_hrnet_small.py")
CHECKPOINT = str(ROOT / "configs/demo/hrnet_small_synthetic.pth")
FEW = ["--clips", "2", "--frames", "5", "--levels", "3", "--rounds", "1"]


@pytest.fixture(scope="module")
def calibrate():
    sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("calibrate", ROOT / "tools" / "calibrate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def clips_at_hand(synthetic_clips):
    """The synthetic clips as the config's data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPPOSE_SYNTHETIC", str(synthetic_clips))
        yield


def thresholds_in(fragment: Path) -> dict[str, float]:
    overrides = Config.fromfile(fragment).model.overrides
    return {name: gate["eps"] for name, gate in overrides.items()}


@pytest.fixture(scope="module")
def found(calibrate, clips_at_hand, tmp_path_factory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("calibrate") / "found.py"
    options = [CONFIG, CHECKPOINT, "--target-gmacs", "0.07", *FEW]
    calibrate([*options, "--out", str(out), "--cache", str(out.parent)])
    return out, options


@pytest.mark.slow
def test_the_target_is_met_and_layers_differ(found):
    out, _ = found
    gmacs = float(re.search(r": (\S+) GMACs", out.read_text())[1])
    assert gmacs == pytest.approx(0.07, rel=0.05)
    thresholds = thresholds_in(out)
    assert len(thresholds) > 50 and len(set(thresholds.values())) > 1


@pytest.mark.slow
def test_it_is_deterministic(found, calibrate, tmp_path):
    out, options = found
    again = tmp_path / "again.py"
    calibrate([*options, "--out", str(again), "--cache", str(tmp_path)])
    assert thresholds_in(again) == thresholds_in(out)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["half", "torn"])
def test_an_interrupted_run_goes_on_where_it_was(found, calibrate, tmp_path, capsys, cut):
    out, options = found
    store = json.loads(out.with_suffix(".json").read_text())
    total = len(store["results"])
    kept = dict(list(store["results"].items())[: total // 2])
    text = json.dumps({**store, "results": kept})
    again = tmp_path / "found.py"
    again.with_suffix(".json").write_text(text if cut == "half" else text[:-40])
    calibrate([*options, "--out", str(again), "--cache", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    assert thresholds_in(again) == thresholds_in(out)
    assert len(json.loads(again.with_suffix(".json").read_text())["results"]) == total
    reused = re.search(r"(\d+) results were in", said)
    if cut == "half":
        assert int(reused[1]) >= len(kept)


@pytest.mark.slow
def test_results_of_other_settings_are_not_taken(found, calibrate, tmp_path):
    out, options = found
    stale = tmp_path / "found.json"
    stale.write_text(out.with_suffix(".json").read_text())
    other = [*options, "--global", "--cfg-options", "model.backbone.gate.block=4"]
    calibrate([*other, "--out", str(tmp_path / "found.py"), "--cache", str(tmp_path)])
    before, after = (json.loads(p.with_suffix(".json").read_text()) for p in (out, stale))
    assert before["identity"] != after["identity"]
    # A store that was started anew, for the same questions of another network.
    assert len(after["results"]) < len(before["results"])
    gates = Config.fromfile(tmp_path / "found.py").model.overrides.values()
    assert {gate["block"] for gate in gates} == {4}


@pytest.mark.slow
def test_an_unreachable_target_says_what_can_be_reached(calibrate, clips_at_hand, tmp_path):
    out = tmp_path / "out.py"
    with pytest.raises(SystemExit, match=r"cannot be brought to 7: .* lies between \S+ and 0\.1\d"):
        calibrate(
            [CONFIG, CHECKPOINT, "--target-gmacs", "7", "--global", *FEW]
            + ["--out", str(out), "--cache", str(tmp_path)]
        )
    assert not out.exists()


@pytest.mark.slow
def test_a_target_between_two_steps_says_how_near_it_got(
    calibrate, clips_at_hand, tmp_path, capsys
):
    # So few MACs that the next larger threshold spends none at all.
    calibrate(
        [CONFIG, CHECKPOINT, "--target-gmacs", "1e-9", "--global", *FEW]
        + ["--out", str(tmp_path / "out.py"), "--cache", str(tmp_path)]
    )
    assert "is as near to 1e-09 as it got" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_loss_is_kept(calibrate, clips_at_hand, tmp_path):
    out = tmp_path / "out.py"
    calibrate(
        [CONFIG, CHECKPOINT, "--max-loss", "40", "--global", "--clips", "3", "--frames", "16"]
        + ["--out", str(out), "--cache", str(tmp_path)]
    )
    assert float(re.search(r"loss (\S+)%", out.read_text())[1]) <= 40


@pytest.mark.slow
def test_the_fragment_is_taken_by_a_stream(found):
    out, _ = found
    config = Config.fromfile(out)
    network = build_network(config.model.to_dict(), CHECKPOINT)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, SkipConv2d)}
    expected = thresholds_in(out)
    assert {n: layer.gate.eps for n, layer in layers.items()} == expected
    clip = load_clips(build_dataset(config.test_dataloader.dataset.to_dict()), 1)[0]
    with torch.inference_mode():
        images = network.data_preprocessor(clip.batch)["inputs"][:6]
        with skippose.clips(6) as run:
            network.backbone(images)
        stream = skippose.Stream(network.backbone, backend="eager")
        for image in images:
            stream(image[None])
    report = run.report(network.backbone)
    assert 0 < report.gmacs < 0.5 * report.dense_gmacs
    assert stream.report().gmacs == pytest.approx(report.gmacs, rel=1e-3)


@pytest.mark.slow
def test_clips_are_chosen_by_their_motion(calibrate, clips_at_hand, tmp_path, capsys):
    from _calibration import Calibration  # the tools' folder is in the path by now

    def chosen(*options: str) -> list[str]:
        out, cache = str(tmp_path / "out.py"), str(tmp_path)
        words = [CONFIG, CHECKPOINT, "--target-gmacs", "0.07", *FEW, "--out", out]
        args = calibrate.__globals__["parse_args"]([*words, "--cache", cache, *options])
        with Progress(disable=True) as progress:
            return [clip.clip_id for clip in Calibration(args, progress).clips]

    everything = chosen("--clips", "99", "--choose", "order")
    assert len(everything) == 6
    assert "--clips 99: 6 are used, of 6 training clips" in capsys.readouterr().out
    by_motion = chosen("--clips", "3")
    moved = json.loads((tmp_path / "motion.json").read_text())["results"]
    order = np.argsort(list(moved.values())[0], kind="stable")
    assert by_motion == [everything[n] for n in sorted(order[[1, 3, 5]])]
    assert chosen("--clips", "3", "--choose", "order") == everything[1::2]
    assert "are used" not in capsys.readouterr().out


def tool(name: str, *options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", f"tools/{name}.py", *map(str, options)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_fragment_is_taken_by_the_tools(found, tmp_path):
    out, _ = found
    loaders = [
        f"{part}_dataloader.{setting}"
        for part in ("train", "val", "test")
        for setting in ("num_workers=0", "persistent_workers=False")
    ]
    metrics = tmp_path / "metrics.json"
    done = tool(
        "test", out, CHECKPOINT, "--out", metrics, "--work-dir", tmp_path, "--cfg-options", *loaders
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < json.loads(metrics.read_text())["GMACs"] < 0.15
    done = tool(
        "train", out, "--no-validate", "--work-dir", tmp_path / "train", "--cfg-options",
        f"load_from={CHECKPOINT}", *loaders[:2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "train" / "epoch_1.pth").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "required"),
        (["--target-gmacs", "0"], "above 0"),
        (["--max-loss", "-1"], "above 0"),
        (["--target-gmacs", "1", "--max-loss", "1"], "not allowed with"),
        (["--target-gmacs", "1", "--clips", "0"], "at least 1"),
        (["--target-gmacs", "1", "--levels", "4"], "odd"),
        (["--target-gmacs", "1", "--out", "thresholds.json"], r"ends with \.py"),
        (["--target-gmacs", "1", "--out", CONFIG], "config itself"),
        (["--target-gmacs", "1", "--out", f"{CHECKPOINT}/out.py"], "out.py cannot be written"),
        (["--target-gmacs", "1", "--table", str(ROOT)], "--table .* cannot be written"),
    ],
)
def test_bad_input(calibrate, tmp_path, capsys, options, message):
    out = [] if "--out" in options else ["--out", str(tmp_path / "out.py")]
    with pytest.raises(SystemExit):
        calibrate([CONFIG, CHECKPOINT, *options, *out])
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_dense_config_is_refused(calibrate, dense_config, tmp_path):
    out = str(tmp_path / "out.py")
    with pytest.raises(SystemExit, match=r"found TopdownPoseEstimator .* on a ClipDataset"):
        calibrate([dense_config, CHECKPOINT, "--target-gmacs", "1", "--out", out])
