"""The table of test runs."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "results_table.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, check=False
    )


def test_rows_and_columns(tmp_path: Path) -> None:
    dense, frozen = tmp_path / "dense.json", tmp_path / "frozen.json"
    dense.write_text(json.dumps({"PCK": 0.9123, "GMACs": 0.193, "reduction": 1.0}))
    # As mmengine writes a metric of a network that skipped everything.
    frozen.write_text('{"PCK": 0.5, "GMACs": 0.0, "reduction": Infinity}')
    shown = run(f"dense={dense}", f"frozen={frozen}").stdout
    header, first, second = (line for line in shown.splitlines() if any(map(str.isalpha, line)))
    assert header.split("┃")[1:-1][1].strip() == "PCK@0.2"
    assert "sparsity" not in shown
    assert [c.strip() for c in first.split("│")[1:-1]] == ["dense", "91.23%", "0.1930", "1.00x"]
    assert [c.strip() for c in second.split("│")[1:-1]] == [
        "frozen",
        "50.00%",
        "0.0000",
        "all skipped",
    ]


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text('{"PCK": 0.5, "GMACs": NaN}')  # as older versions wrote it
    other.write_text('{"PCK": 0.25}')
    lines = run(f"one={one}", f"other={other}").stdout.splitlines()
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [["one", "50.00%", "-"], ["other", "25.00%", "-"]]


def test_a_missing_file_is_named() -> None:
    failed = run("dense=nowhere.json")
    assert failed.returncode == 2
    assert "nowhere.json" in failed.stderr and "--out" in failed.stderr
    assert "NAME=FILE.json" in run("nowhere.json").stderr
