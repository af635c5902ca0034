"""The tutorial's commands, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmpose")

import cv2

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"


def blocks() -> list[tuple[str, str]]:
    """(language, code) in order."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", TUTORIAL.read_text(), re.M | re.S)


def test_links_and_paths_are_there() -> None:
    text = TUTORIAL.read_text()
    paths = re.findall(r"\b(?:configs|tools)/[\w/.-]*\w", text)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    for name in ("configs", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    python = bin_folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    env = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "SKIPPOSE_SYNTHETIC": "data/tutorial",
    }
    said = ""
    for language, code in blocks():
        command = ["bash", "-e", "-c", code] if language == "bash" else [str(python), "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, code + done.stdout[-2000:] + done.stderr[-3000:]
        said += done.stdout
    out = tmp_path / "work_dirs" / "tutorial"
    print(said)  # what the tutorial's reader sees, with pytest -rP
    assert "calibrated" in said and "% of dense" in said
    assert "layer" in said and "density" in said, "the stream's report"
    (clip,) = (out / "gates").iterdir()
    assert {"pose.png", "cost.png", "layers_over_time.png", "gates.mp4"} <= {
        path.name for path in clip.iterdir()
    }
    video = cv2.VideoCapture(str(out / "wave.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 31
