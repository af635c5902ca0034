"""tools/three_split_mean.py"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
TOOL = Path(__file__).parents[2] / "tools" / "three_split_mean.py"


def write(folder: Path, *contents: object) -> list[str]:
    paths = []
    for n, content in enumerate(contents):
        path = folder / f"sub{n + 1}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        paths.append(str(path))
    return paths


def run(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *options], capture_output=True, text=True)


def test_means_of_all_metrics(tmp_path):
    splits = [{"PCK": 0.9, "GMACs": 2.0}, {"PCK": 0.8, "GMACs": 3.0}, {"PCK": 0.4, "GMACs": 1.0}]
    out = tmp_path / "mean.json"
    done = run(*write(tmp_path, *splits), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == pytest.approx({"PCK": 0.7, "GMACs": 2.0})
    assert "0.7000" in done.stdout and "2.0000" in done.stdout


GOOD = {"PCK": 0.9}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([GOOD, GOOD], "got 2"),
        ([GOOD, GOOD, {"PCK": 0.9, "GMACs": 1.0}], "GMACs"),
        ([GOOD, GOOD, {"PCK": "high"}], "sub3.json holds no metric"),
        ([GOOD, GOOD, '{"PCK": NaN}'], "sub3.json: not finite"),
        ([GOOD, GOOD, "[1, 2]"], "sub3.json: a JSON object"),
        ([GOOD, GOOD, '{"PCK":'], "sub3.json: no JSON"),
    ],
)
def test_bad_results_are_named(tmp_path, contents, message):
    done = run(*write(tmp_path, *contents))
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_split_counted_twice_is_refused(tmp_path):
    paths = write(tmp_path, GOOD, GOOD)
    done = run(paths[0], paths[1], paths[1])
    assert done.returncode != 0 and "twice" in done.stderr
