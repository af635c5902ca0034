#!/usr/bin/env python
"""Finds thresholds for an already trained network: no training, on clips it was trained on.

    python tools/calibrate.py CONFIG CHECKPOINT --target-gmacs 0.03 --out calibrated.py
    python tools/calibrate.py CONFIG CHECKPOINT --max-loss 5 --out calibrated.py
    python tools/test.py calibrated.py CHECKPOINT

The thresholds are for CONFIG's norm gates, whose blocks, norms and reference stay as they are.
--target-gmacs: per frame after a clip's first. --max-loss: percent of dense - frozen that PCK@0.2
and PCK@0.1 may each lose, on the calibration clips (frozen: the first frame's answer, held).

Methods:

    global    one factor on all of CONFIG's thresholds
    single    per layer: every layer's thresholds are tried while all other layers are dense, and
              the heat maps' error is measured; slow (layers x levels runs)
    gradient  per layer, the default: all layers' thresholds are tried in one pass of the network as
              it runs at the target, and two backward passes say what they do to the heat maps

The per-layer methods start from the global one, give each layer the threshold that spends MACs
where they buy most accuracy, and are brought to the target by one factor on all. With several
methods, the one with the smallest heat map error is written (--max-loss: the fewest MACs).

The calibration clips are --clips training clips, cropped as the test clips are, at even distances
in the order of how much of a clip changes from frame to frame: clips differ in their MACs by an
order of magnitude and more, and few clips are to cost what all of them do. What has been measured
is kept in --cache: an interrupted run is simply started again.
"""

import argparse
import csv
import logging
import shlex
import sys
import time
from pathlib import Path

from _calibration import Calibration
from _options import check_output
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from skippose.calibration.allocation import Unreachable
from skippose.calibration.fragment import config_fragment, wrapped
from skippose.checkpoints.command_line import add_option, refused_in_a_line
from skippose.evaluation.clip_bank import file_digest, set_threads

CONSOLE = Console()
METHODS = ("global", "single", "gradient")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("config", help="config with norm gates")
    options.add_argument("checkpoint", help="checkpoint file, dense or gated")
    goal = options.add_mutually_exclusive_group(required=True)
    goal.add_argument("--target-gmacs", type=float, help="GMACs per frame after the first")
    goal.add_argument("--max-loss", type=float, help="percent of dense - frozen")
    options.add_argument("--out", type=Path, required=True, help="config to write (.py)")
    which = options.add_mutually_exclusive_group()
    which.add_argument(
        "--global", dest="methods", action="store_const", const=["global"], help="one factor"
    )
    which.add_argument(
        "--per-layer", dest="methods", action="store_const", const=["gradient"], help="the default"
    )
    which.add_argument("--methods", nargs="+", choices=METHODS, help="several, to compare")
    options.add_argument("--table", type=Path, help="file for what each method gave (.csv)")
    options.add_argument(
        "--magnitudes",
        choices=("stream", "calibrated"),
        default="stream",
        help="what relative thresholds refer to: the stream's last dense frame (default), or a "
        "magnitude measured here, so that the fragment's thresholds are absolute ones",
    )
    options.add_argument("--clips", type=int, default=24, help="calibration clips (default: 24)")
    options.add_argument(
        "--choose",
        choices=("motion", "order"),
        default="motion",
        help="which clips: at even distances in the order of their motion (default), or as the "
        "data set lists them",
    )
    options.add_argument("--frames", type=int, default=12, help="frames of each (default: 12)")
    options.add_argument("--levels", type=int, default=5, help="thresholds tried (default: 5)")
    options.add_argument(
        "--rounds", type=int, default=2, help="rounds of the gradient method (default: 2)"
    )
    options.add_argument("--seed", type=int, default=0, help="of the random projections")
    options.add_argument(
        "--cache",
        type=Path,
        default=Path("work_dirs/calibrate"),
        help="folder for what has been measured (default: work_dirs/calibrate)",
    )
    options.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    options.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add_option(options)
    options.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="settings changed in the config; the fragment does not carry them",
    )
    args = options.parse_args(arguments)
    args.methods = args.methods or ["gradient"]
    for name, least in (("clips", 1), ("frames", 2), ("levels", 3), ("rounds", 1)):
        if getattr(args, name) < least:
            options.error(f"--{name} must be at least {least}, got {getattr(args, name)}")
    if args.levels % 2 == 0:
        options.error(f"--levels must be odd (one is the threshold as it is), got {args.levels}")
    for name in ("target_gmacs", "max_loss"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            options.error(f"--{name.replace('_', '-')} must be above 0, got {value}")
    if args.out.suffix != ".py":
        options.error(f"--out is a config and ends with .py, got {args.out}")
    if args.out.resolve() == Path(args.config).resolve():
        options.error("--out is the config itself")
    check_output(options, "--out", args.out)
    if args.table is not None:
        check_output(options, "--table", args.table)
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    set_threads(args.threads)
    MMLogger.get_instance("calibrate", log_level=logging.WARNING)
    how = shlex.join(["python", "tools/calibrate.py", *(arguments or sys.argv[1:])])
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    outcomes = []
    with refused_in_a_line(), Progress(*columns, console=CONSOLE) as progress:
        calibration = Calibration(args, progress)
        for method in args.methods:
            before = time.process_time()
            try:
                thresholds = calibration.solve(method)
            except Unreachable as error:
                raise SystemExit(f"{method}: {error}") from error
            seconds = time.process_time() - before
            gmacs, error = calibration.run(thresholds)
            loss = calibration.loss(thresholds) if args.max_loss is not None else None
            outcomes.append((method, thresholds, gmacs, error, loss, seconds))
    dense = calibration.dense_gmacs
    lines = [
        {
            "method": method,
            "GMACs": f"{gmacs:.4f}",
            "reduction": f"{dense / gmacs:.2f}x",
            "heat map error": f"{error:.2%}",
            "loss": "-" if loss is None else f"{loss:.2f}%",
            "CPU seconds": f"{seconds:.0f}",
        }
        for method, _, gmacs, error, loss, seconds in outcomes
    ]
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*line.values())
    CONSOLE.print(table)
    if args.table is not None:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        with args.table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    if calibration.store.reused:
        CONSOLE.print(f"{calibration.store.reused} results were in {calibration.store.path}")
    method, thresholds, gmacs, error, loss, _ = min(
        outcomes, key=lambda found: found[3] if args.max_loss is None else found[2]
    )
    calibration.probe.thresholds = thresholds
    frames = sum(map(len, calibration.clips))
    about = (
        f"Calibrated thresholds ({method}).\n\n{wrapped(how)}\n\n"
        f"On {len(calibration.clips)} training clips ({frames} frames): {gmacs:.4g} GMACs per "
        f"frame after\na clip's first (dense {dense:.4g}), heat map error {error:.2%} of a frozen "
        f"first frame's"
        + ("" if loss is None else f", loss {loss:.2f}%")
        + f".\nCheckpoint: SHA-256 {file_digest(args.checkpoint)[:16]}...\n"
    )
    text = config_fragment(
        args.config, args.out, calibration.probe.layers, calibration.scale, about
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    if args.target_gmacs is not None and abs(gmacs / args.target_gmacs - 1) > 0.05:
        CONSOLE.print(f"{gmacs:.4g} GMACs is as near to {args.target_gmacs:.4g} as it got")
    CONSOLE.print(f"{args.out}: use it as a config, with the same checkpoint")


if __name__ == "__main__":
    main()
