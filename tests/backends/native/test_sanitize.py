"""The native backend's driver: clean under sanitizers, and on processors without AVX-512."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sanitize.py")
SKIPPED = ("there is no C++ compiler", " sanitizer: ", "does not run here", "emulated")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["address", "thread", "tiles", "emulate"])
def test_the_driver_runs_clean(what, tmp_path) -> None:
    command = [sys.executable, str(SCRIPT), what, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if "passed" not in said and any(reason in said for reason in SKIPPED):
        pytest.skip(said.strip().splitlines()[-1])
    assert done.returncode == 0, said[-4000:]
    assert done.stdout.count("passed") == (2 if what == "emulate" else 1)
