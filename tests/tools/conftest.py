"""Rendered clips for the tools that run networks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def synthetic_clips(tmp_path_factory) -> Path:
    """Eight clips in JHMDB's layout, two of them for testing."""
    out = tmp_path_factory.mktemp("synthetic")
    tool = ROOT / "tools" / "dataset_converters" / "synthetic.py"
    command = [sys.executable, tool, "--out", out, "--clips", 8, "--seed", 3]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out
