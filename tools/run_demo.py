#!/usr/bin/env python
"""The whole path on synthetic clips: make them, train through the gates, test, compare.

    python tools/run_demo.py                 # what `make demo` runs
    python tools/run_demo.py --out DIR --clips 48

It ends with a table of the same network run dense, gated and frozen (the first frame's poses held
for the whole clip, where they were in the image), on clips that neither the shipped checkpoint nor
the training here has seen.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "demo" / "skip_hrnet_small.py"
# The row -> what it changes of the config. The weights are the same.
ROWS = {
    "dense": ["model.backbone.gate=None"],
    "gated": [],
    # Nothing follows the person either: the crop window would know where the box is.
    "frozen": [
        "model.backbone.gate.eps=1e9",
        "model.backbone.gate.scale=absolute",
        "test_dataloader.dataset.crop=first",
    ],
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "demo")
    options.add_argument("--clips", type=int, default=96, help="synthetic clips, a quarter to test")
    args = options.parse_args()
    args.out = args.out.resolve()
    data, train = args.out / "data", args.out / "train"
    # The shipped checkpoint was trained on the clips of seed 0.
    make_clips = ["dataset_converters/synthetic.py", "--out", data, "--clips", args.clips]
    step("1/3  synthetic clips", [*make_clips, "--seed", 1], data)
    step("2/3  training through the gates", ["train.py", CONFIG, "--work-dir", train], data)
    checkpoint = (train / "last_checkpoint").read_text().strip()
    runs = []
    for row, changes in ROWS.items():
        metrics = args.out / f"{row}.json"
        test = ["test.py", CONFIG, checkpoint, "--work-dir", args.out / row, "--out", metrics]
        step(f"3/3  testing: {row}", test + (["--cfg-options", *changes] if changes else []), data)
        runs.append(f"{row}={metrics}")
    step("The same weights, on clips that were never trained on", ["results_table.py", *runs], data)
    print(f"Losses, densities and gates drawn over a clip:\n  tensorboard --logdir {args.out}")


def step(title: str, command: list[object], data: Path) -> None:
    """Runs one of the tools, on the demo's data; stops with its exit status if it fails."""
    Console().rule(title)
    tool, *arguments = map(str, command)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tools" / tool), *arguments],
        cwd=ROOT,
        env={**os.environ, "SKIPPOSE_SYNTHETIC": str(data.resolve())},
        check=False,
    )
    if done.returncode:
        sys.exit(f"{tool} failed with status {done.returncode}; its message is above")


if __name__ == "__main__":
    main()
