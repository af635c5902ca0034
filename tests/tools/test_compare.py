"""tools/compare.py"""

import csv
import importlib.util
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmpose")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
CONFIG = "configs/demo/skip_hrnet_small.py"
CHECKPOINT = "configs/demo/hrnet_small_synthetic.pth"


def run(tool: str, *options: object, data: Path | str = "nowhere") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", f"tools/{tool}.py", *map(str, options)],
        cwd=ROOT,
        env=os.environ | {"SKIPPOSE_SYNTHETIC": str(data), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def rows_of(out: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with out.with_suffix(".csv").open() as file:
        return {(r["row"], r["perturb"], r["clips"]): r for r in csv.DictReader(file)}


@pytest.fixture(scope="module")
def first(synthetic_clips, tmp_path_factory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("compare") / "small"
    options = [CONFIG, CHECKPOINT, "--out", str(out), "--cache", str(out.with_name("rows"))]
    options += ["--variant", "hold/0.5", "model.backbone.gate.eps=0.5"]
    done = run("compare", *options, data=synthetic_clips)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "changes"),
    [
        ("skip_hrnet_small", []),
        ("hold/0.5", ["model.backbone.gate.eps=0.5"]),
        ("dense", ["model.backbone.gate=None"]),
        (
            "dense, crop per frame",
            ["model.backbone.gate=None", "test_dataloader.dataset.crop=frame"],
        ),
        ("frozen", ["model.backbone.gate.eps=1e9", "model.backbone.gate.scale=absolute"]),
    ],
)
def test_numbers_are_those_of_the_test_tool(first, synthetic_clips, tmp_path, row, changes):
    out, _ = first
    settings = ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    metrics = tmp_path / "metrics.json"
    done = run(
        "test", CONFIG, CHECKPOINT, "--out", metrics, "--work-dir", tmp_path,
        "--cfg-options", *settings, *changes, data=synthetic_clips,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = json.loads(metrics.read_text()), rows_of(out)[row, "none", "all"]
    for theirs, ours in (
        ("PCK", "PCK@0.2"), ("strict/PCK", "PCK@0.1"), ("tPCK", "tPCK@0.2"), ("GMACs", "GMACs"),
        ("dense_GMACs", "first GMACs"), ("reduction", "reduction"), ("sparsity", "sparsity"),
    ):  # fmt: skip
        if row == "frozen" and theirs == "sparsity":
            continue  # the row has no gates, which the test tool's run holds closed
        value = expected[theirs]
        if row == "frozen" and theirs == "reduction":
            value = math.inf
        if theirs == "reduction" and value is None:
            value = math.inf
        assert found[ours] == f"{value:.10g}", theirs


@pytest.mark.slow
def test_tables_and_pictures(first):
    out, options = first
    rows = rows_of(out)
    names = ["dense, crop per frame", "dense", "frozen", "skip_hrnet_small", "hold/0.5"]
    assert list(dict.fromkeys(name for name, _, _ in rows)) == names
    everything = rows["hold/0.5", "none", "all"]
    parts = [
        rows["hold/0.5", "none", k] for k in ("still", "moving") if ("hold/0.5", "none", k) in rows
    ]
    assert sum(int(r["frames"]) for r in parts) == int(everything["frames"])
    assert float(rows["dense", "none", "all"]["PCK@0.2 loss"]) == 0
    assert float(rows["frozen", "none", "all"]["PCK@0.2 loss"]) == 1
    dense, frozen, here = (
        float(rows[n, "none", "all"]["PCK@0.1"]) for n in ("dense", "frozen", "hold/0.5")
    )
    assert float(everything["PCK@0.1 loss"]) == pytest.approx((dense - here) / (dense - frozen))
    low, high = (float(everything[f"PCK@0.2 {end}"]) for end in ("low", "high"))
    assert low <= float(everything["PCK@0.2"]) <= high
    text = out.with_suffix(".md").read_text()
    assert " ".join(options[:2]) in text and all(f"| {name} |" in text for name in names)
    assert out.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.slow
def test_finished_rows_are_not_computed_again(first, synthetic_clips):
    out, options = first
    rows = out.with_name("rows")
    before = {p.name: p.stat().st_mtime_ns for p in rows.iterdir()}
    table = out.with_suffix(".csv").read_bytes()
    assert len(before) == 5
    more = [
        "--variant",
        "previous",
        "model.backbone.reference=previous",
        "--perturb",
        "none",
        "shake",
    ]
    done = run("compare", *options, data=synthetic_clips)
    assert "5 of 5 rows are there" in done.stdout
    assert out.with_suffix(".csv").read_bytes() == table
    second = out.with_name("more")
    done = run("compare", *options, *more, "--out", second, data=synthetic_clips)
    assert done.returncode == 0, done.stderr
    assert "5 of 12 rows are there" in done.stdout
    after = {p.name: p.stat().st_mtime_ns for p in rows.iterdir()}
    assert len(after) == 12 and before.items() <= after.items()
    assert second.with_name("more_shake_3.png").is_file()
    found = rows_of(second)
    still, shaken = (found["hold/0.5", how, "all"] for how in ("none", "shake:3"))
    assert float(shaken["GMACs"]) > float(still["GMACs"])


@pytest.mark.slow
def test_the_command_of_a_row_gives_its_digits(first, synthetic_clips, tmp_path):
    out, _ = first
    row = rows_of(out)["hold/0.5", "none", "all"]
    words = shlex.split(row["command"])
    assert words[:2] == ["python", "tools/compare.py"]
    done = run("compare", *words[2:], "--out", tmp_path / "row", "--cache", tmp_path / "rows",
               data=synthetic_clips)  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = rows_of(tmp_path / "row")["hold/0.5", "none", "all"]
    different = {key for key in row if row[key] != again[key]}
    assert not different


@pytest.mark.slow
def test_the_command_of_a_row_brings_what_it_is_compared_with(first, synthetic_clips, tmp_path):
    other = tmp_path / "thin.py"
    model = dict(type="LowRankTopdownPoseEstimator", share=0.8)
    other.write_text(f"_base_ = {str(ROOT / CONFIG)!r}\nmodel = {model!r}\n")
    pairs = [f"full={CONFIG}", CHECKPOINT, f"thin={other}", CHECKPOINT, "--common-reference"]
    more = ["--variant", "hold/0.5", "model.backbone.gate.eps=0.5", "--only-variants"]
    cache = first[0].with_name("rows")
    out = tmp_path / "two"
    done = run("compare", *pairs, *more, "--out", out, "--cache", cache, data=synthetic_clips)
    assert done.returncode == 0, done.stderr
    row = rows_of(out)["thin hold/0.5", "none", "all"]
    words = shlex.split(row["command"])
    again = tmp_path / "again"
    done = run("compare", *words[2:], "--out", again, "--cache", cache, data=synthetic_clips)
    assert rows_of(again)["thin hold/0.5", "none", "all"] == row


@pytest.mark.slow
def test_thresholds_of_layers_come_from_a_file(first, synthetic_clips, tmp_path):
    out, options = first
    file, name = tmp_path / "variants.json", "stem, open/1"
    gate = {"type": "InputNormGate", "eps": 0.0}
    variants = {name: {"model.overrides": {"backbone.conv1": gate}}, "other": {"a": 1}}
    file.write_text(json.dumps({"variants": variants}))
    found = tmp_path / "found"
    more = ["--variants", file, "--rows", name, "--out", found]
    done = run("compare", *options[:2], *options[4:6], "--only-variants", *more,
               data=synthetic_clips)  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = rows_of(found)[name, "none", "all"]
    assert row["GMACs"] > rows_of(out)["skip_hrnet_small", "none", "all"]["GMACs"]
    assert row["variant"] == "model.overrides=(1 settings)"
    words = shlex.split(row["command"])
    assert words[words.index("--variants") :] == ["--variants", str(file), "--rows", name]
    done = run("compare", *words[2:], "--out", tmp_path / "again", "--cache", tmp_path / "rows",
               data=synthetic_clips)  # fmt: skip
    assert rows_of(tmp_path / "again")[name, "none", "all"] == row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([CONFIG], "pairs"),
        ([CONFIG, CHECKPOINT, "--perturb", "fog"], "fog"),
        ([CONFIG, CHECKPOINT, "--variant", "a=1"], "NAME KEY=VALUE"),
        ([CONFIG, CHECKPOINT, "--variant", "a", "b=1", "--variant", "a", "b=2"], "two variants"),
        ([CONFIG, CHECKPOINT, "--only-variants"], "needs --variant"),
        ([CONFIG, CHECKPOINT, "--variant", "a", "b=1", "--rows", "c"], "no variant is called 'c'"),
        ([CONFIG, CHECKPOINT], "tools/dataset_converters"),
    ],
)
def test_bad_input(tmp_path, options, message):
    done = run("compare", *options, "--out", tmp_path / "out", "--cache", tmp_path / "rows")
    assert done.returncode != 0 and message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("compare", ROOT / "tools" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Whatever is refused is refused before the first row.
    monkeypatch.setattr(module, "compute", lambda rows, args: pytest.fail("it began to compute"))
    return module


def test_a_dense_config_is_refused(tool, dense_config, tmp_path):
    with pytest.raises(SystemExit, match=r"found TopdownPoseEstimator .* on a ClipDataset"):
        tool.main([dense_config, CHECKPOINT, "--out", str(tmp_path / "out")])


def test_output_is_checked_before_the_work(tool, synthetic_clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKIPPOSE_SYNTHETIC", str(synthetic_clips))
    monkeypatch.chdir(ROOT)
    options = [CONFIG, CHECKPOINT, "--cache", str(tmp_path), "--out"]
    with pytest.raises(SystemExit):
        tool.main([*options, f"{CHECKPOINT}/out"])
    assert "out.csv cannot be written" in capsys.readouterr().err
    curves = ["--equal-budgets", "foo", "bar"]
    with pytest.raises(SystemExit, match="no curve is called 'foo'; there are .*hold"):
        tool.main(
            [
                *options,
                str(tmp_path / "out"),
                "--variant",
                "hold/1",
                "model.backbone.gate.eps=1",
                *curves,
            ]
        )
