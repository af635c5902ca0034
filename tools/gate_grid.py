#!/usr/bin/env python
"""Every kind of gate at one budget: thresholds found on training clips, then compared.

    python tools/gate_grid.py thresholds      # finds them, writes results/gate_grid.json
    python tools/gate_grid.py compare         # tools/compare.py on what is in that file

The cells are the full product of gates (input, output, exact), policies (hold, previous), scales
(relative, absolute, calibrated) and blocks (1, 2, 4, 8). `relative` and `absolute` have one
threshold for all layers, `calibrated` one for each layer, by tools/calibrate.py's gradient method
from relative thresholds on. Each is brought to the same MACs a frame on a few training clips. What
the exact gate itself computes is left out of that budget, which it could not meet otherwise: it is
an oracle; the comparison counts it.

Cells that are in the file stay as they are, those that were interrupted go on, so that the command
may be stopped at any time. `thresholds --only TEXT ...` takes the cells whose name holds one of the
texts; `compare` takes all that are there, and further options of tools/compare.py.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _calibration import Calibration
from calibrate import parse_args as calibration_args
from rich.progress import Progress

from skippose.calibration.allocation import Unreachable
from skippose.evaluation.clip_bank import set_threads
from skippose.files import replace_file

CONFIG = "configs/small/skip_hrnet_small.py"
CHECKPOINT = "configs/small/hrnet_small_jhmdb-sub1.pth"
FILE = Path("results/gate_grid.json")
CACHE = Path("work_dirs/gate_grid")
BUDGET = 0.045  # GMACs per frame after the first
GATES = {"input": "InputNormGate", "output": "OutputNormGate", "exact": "ExactNormGate"}
POLICIES = ("hold", "previous")
SCALES = ("relative", "absolute", "calibrated")
BLOCKS = (1, 2, 4, 8)
# 64 frames are enough to bring cells near one another.
FEW = ["--clips", "8", "--frames", "8", "--levels", "3", "--rounds", "1"]


def cells() -> dict[str, dict[str, Any]]:
    """Name and settings of every cell, without its thresholds; the cheapest to find first."""
    found = {}
    for scale, gate, block, policy in itertools.product(SCALES, GATES, BLOCKS, POLICIES):
        found[f"{gate}, {policy}, block {block}/{scale}"] = {
            "model.backbone.gate.type": GATES[gate],
            "model.backbone.gate.block": block,
            "model.backbone.gate.scale": "absolute" if scale == "absolute" else "relative",
            "model.backbone.reference": policy,
        }
    return found


def thresholds(name: str, settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A cell's settings with the thresholds that meet the budget.

    Raises:
        Unreachable: if no thresholds do.
    """
    per_layer = name.endswith("calibrated")
    stem = name.replace(", ", "_").replace(" ", "-").replace("/", "_")
    options = [CONFIG, CHECKPOINT, "--target-gmacs", str(BUDGET), "--out", f"{stem}.py", *FEW]
    options += ["--cache", str(CACHE), "--cfg-options"]
    args = calibration_args([*options, *(f"{key}={value}" for key, value in settings.items())])
    calibration = Calibration(args, progress)
    calibration.probe.count_gates = GATES["exact"] not in settings.values()
    found = calibration.solve("gradient" if per_layer else "global")
    if not per_layer:
        return {**settings, "model.backbone.gate.eps": float(found[0])}
    gate = dict(type=settings["model.backbone.gate.type"])
    gate["block"] = settings["model.backbone.gate.block"]
    names = calibration.probe.layers
    layers = {n: {**gate, "eps": float(e)} for n, e in zip(names, found, strict=True)}
    return {
        "model.backbone.reference": settings["model.backbone.reference"],
        "model.overrides": layers,
    }


def known() -> dict[str, dict[str, Any]]:
    """The cells that are in the file."""
    return json.loads(FILE.read_text(encoding="utf-8"))["variants"] if FILE.is_file() else {}


def find(chosen: dict[str, dict[str, Any]]) -> None:
    """Finds the thresholds of cells that have none, and writes the file after each."""
    with Progress() as progress:
        for name, settings in chosen.items():
            if name in known():
                continue
            try:
                found = {name: thresholds(name, settings, progress)}
            except Unreachable as error:
                progress.console.print(f"{name}: {error}")
                continue
            found |= known()  # read again: others may look for other cells
            ordered = {"variants": {n: found[n] for n in cells() if n in found}}
            replace_file(FILE, json.dumps(ordered, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("what", choices=("thresholds", "compare"))
    options.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="of thresholds: some cells"
    )
    args, more = options.parse_known_args(arguments)
    for text in args.only:
        if not any(text in name for name in cells()):
            options.error(f"--only: no cell's name holds {text!r}; there are {'; '.join(cells())}")
    chosen = {n: s for n, s in cells().items() if any(text in n for text in args.only)}
    if args.what == "thresholds":
        if more:
            options.error(f"unknown options: {' '.join(more)}")
        set_threads(1)
        find(chosen)
        return
    if args.only != [""]:
        options.error("--only chooses cells to find thresholds for; compare takes all in the file")
    command = [sys.executable, "tools/compare.py", CONFIG, CHECKPOINT, "--out", "results/gate_grid"]
    command += ["--variants", str(FILE), "--only-variants", "--clips", "12", *more]
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
