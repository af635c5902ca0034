#!/usr/bin/env python
"""The experiments of results/learned_gates.md: gates trained in several ways, then compared.

    python tools/learned_gates.py train            # all rows, one after the other
    python tools/learned_gates.py train --rows "learned thresholds/0.25"
    python tools/learned_gates.py compare          # those that are there, on the test clips

Further options of `compare` are those of tools/compare.py (`--clips 12`, `--perturb shake`). With
another `--name` its tables lie beside those of all rows:

    python tools/learned_gates.py compare --name NAME --perturb shake:3 --rows ROW ...

A row is a config of configs/small with a few settings changed; `ROWS` lists them, the most
important first. Each is trained by tools/train.py in a folder of its own: what is finished is
skipped, what was interrupted goes on, so that the command may be stopped at any time.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).parents[1]
CONFIGS = "configs/small/skip_hrnet_small_"
DENSE = ("configs/small/skip_hrnet_small.py", "configs/small/hrnet_small_jhmdb-sub1.pth")
FIRST = "untrained norm/0.2"
NETS = ("backbone", "head")
EPS = "model.backbone.gate.eps={}"
NETWORK = [f"optim_wrapper.paramwise_cfg.custom_keys.{part}.lr_mult=0.005" for part in NETS]
ITERS = "train_cfg.max_iters={}"
BLOCK = "model.backbone.gate.block={}"
TARGET = "model.gate_loss.target={}"
START = "model.backbone.gate.threshold={}"
SIXTH = [TARGET.format(0.17), START.format(0.13)]
PREVIOUS = [TARGET.format(0.2), START.format(0.07), "model.backbone.reference=previous"]
BATCH = "train_dataloader.batch_size={}"
LONG = [BATCH.format(16), "train_dataloader.num_workers=2", "optim_wrapper.optimizer.lr=3e-4"]
LONG += [ITERS.format(120)]
# Goes on from a network that has learnt to live with less skipping.
ANNEALED = ["load_from=configs/small/hrnet_small_joint-25.pth", ITERS.format(360)]
# And on from there, at half the learning rate.
TWICE = ["load_from=configs/small/hrnet_small_joint-annealed.pth", "randomness.seed=1"]
TWICE += ["optim_wrapper.optimizer.lr=0.01"]


def clips_of(length: int, frames: int = 8) -> list[str]:
    """Clips of another length, and as many of them as give an iteration as many frames."""
    return [f"train_dataloader.dataset.clip_len={length}", BATCH.format(frames // length)]


ROWS: dict[str, tuple[str, list[str]]] = {
    "learned thresholds/0.25": ("learned-norm", []),
    "learned thresholds/0.12": ("learned-norm-calibrated", []),
    "thresholds and network/0.12": ("learned-norm-calibrated", [*NETWORK, ITERS.format(250)]),
    "learned thresholds, jitter/0.12": ("learned-norm-jitter", []),
    "trained norm/27": ("trained-norm", []),
    "trained norm, jitter/27": ("trained-norm-jitter", []),
    "trained dense/27": ("trained-norm-twin", []),
    "Gumbel, previous/0.2": ("gumbel-previous", []),
    "learned thresholds, second seed/0.25": ("learned-norm", ["randomness.seed=1"]),
    "learned thresholds, third seed/0.25": ("learned-norm", ["randomness.seed=2"]),
    "learned thresholds, block 4/0.25": ("learned-norm", [BLOCK.format(4)]),
    "learned thresholds, block 8/0.25": ("learned-norm", [BLOCK.format(8), EPS.format(0.3)]),
    "learned thresholds, clips of 4/0.25": ("learned-norm", clips_of(4)),
    "learned thresholds, clips of 2/0.25": ("learned-norm", clips_of(2)),
    "learned thresholds, frame gates/0.25": (
        "learned-norm",
        ["model.backbone.gate.source=frame", EPS.format(1.0)],
    ),
    "Gumbel, hold/0.25": ("gumbel", []),
    "Gumbel, hold/0.4": ("gumbel", [TARGET.format(0.4), START.format(0.06)]),
    "Gumbel, hold/0.12": ("gumbel", [TARGET.format(0.12), START.format(0.16)]),
    "Gumbel, hold/0.17": ("gumbel", SIXTH),
    "Gumbel, hold, second seed/0.17": ("gumbel", [*SIXTH, "randomness.seed=1"]),
    "Gumbel, hold, third seed/0.17": ("gumbel", [*SIXTH, "randomness.seed=2"]),
    "Gumbel, previous/0.4": ("gumbel-previous", [TARGET.format(0.4), START.format(0.035)]),
    "Gumbel, previous/0.1": ("gumbel-previous", [TARGET.format(0.1), START.format(0.11)]),
    "Gumbel, hold, jitter/0.25": ("gumbel-jitter", []),
    "Gumbel, hold, jitter, second seed/0.25": ("gumbel-jitter", ["randomness.seed=1"]),
    "Gumbel, hold, jitter, third seed/0.25": ("gumbel-jitter", ["randomness.seed=2"]),
    "Gumbel, previous, jitter/0.2": ("gumbel-jitter", PREVIOUS),
    "Gumbel, hold, second seed/0.25": ("gumbel", ["randomness.seed=1"]),
    "Gumbel, hold, third seed/0.25": ("gumbel", ["randomness.seed=2"]),
    "Gumbel, hold, clips of 4/0.25": ("gumbel", clips_of(4)),
    "Gumbel, hold, clips of 2/0.25": ("gumbel", clips_of(2)),
    # For an accelerator: sixteen clips an iteration.
    "joint/0.1": ("joint", []),
    "joint/0.25": ("joint", [TARGET.format(0.25), EPS.format(0.2)]),
    "joint, second seed/0.1": ("joint", ["randomness.seed=1"]),
    "joint, block 4/0.1": ("joint", [BLOCK.format(4), EPS.format(0.45)]),
    "joint, jitter/0.1": ("joint-jitter", []),
    "joint, annealed/0.1": ("joint", ANNEALED),
    "joint, annealed twice/0.1": ("joint", TWICE),
    "joint, annealed, second seed/0.1": ("joint", [*ANNEALED, "randomness.seed=1"]),
    "joint, annealed, clips of 16/0.1": ("joint", [*ANNEALED, *clips_of(16, frames=128)]),
    "joint, annealed, block 4/0.1": ("joint", [*ANNEALED, BLOCK.format(4)]),
    "joint, annealed, wide/0.1": ("joint-wide", ANNEALED),
    "joint, annealed, consistency 4/0.1": ("joint", [*ANNEALED, "model.consistency=4.0"]),
    "long norm/27": ("trained-norm", LONG),
    "long dense/27": ("trained-norm-twin", LONG),
}
"""Name, of which what stands before the slash is a curve of the picture: config and settings."""


def folder(name: str, args: argparse.Namespace) -> Path:
    """Where a row's training keeps its files."""
    return args.work_dir / name.replace(", ", "_").replace(" ", "-").replace("/", "_")


def checkpoint(name: str, args: argparse.Namespace) -> Path:
    """What a row's training ends with."""
    return folder(name, args) / f"iter_{iterations(name, args)}.pth"


def iterations(name: str, args: argparse.Namespace) -> int:
    """How long a row is trained: what is asked for, or what its config says."""
    config, settings = ROWS[name]
    own = dict(setting.split("=") for setting in settings)
    configured = Config.fromfile(ROOT / f"{CONFIGS}{config}.py").train_cfg.max_iters
    return int(args.iters or own.get("train_cfg.max_iters", configured))


def train(name: str, args: argparse.Namespace) -> None:
    """Trains one row, or what is left of it."""
    if checkpoint(name, args).exists():
        print(f"{name}: there already")
        return
    config, settings = ROWS[name]
    command = [sys.executable, "tools/train.py", f"{CONFIGS}{config}.py", "--no-validate"]
    command += ["--work-dir", str(folder(name, args))]
    if (folder(name, args) / "last_checkpoint").exists():
        command.append("--resume")
    command += ["--cfg-options", "randomness.seed=0", *settings]
    iters = iterations(name, args)
    command += [f"train_cfg.max_iters={iters}", f"param_scheduler.1.end={iters}"]
    print(f"{name}: {' '.join(command[1:])}", flush=True)
    log = folder(name, args) / "train.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{name}: failed, see {log}")


def compare(args: argparse.Namespace) -> None:
    """The rows that are trained, beside the dense network and untrained gates on it."""
    pairs = [f"{FIRST}={DENSE[0]}", DENSE[1]]  # its own threshold
    for name, path, weights in fragments(args):
        if name in args.rows:
            pairs += [f"{name}={os.path.relpath(path, ROOT)}", weights]
    for name in ROWS:
        if name in args.rows and checkpoint(name, args).exists():
            config = folder(name, args) / f"{Path(CONFIGS).name}{ROWS[name][0]}.py"
            trained = os.path.relpath(checkpoint(name, args), ROOT)
            pairs += [f"{name}={os.path.relpath(config, ROOT)}", trained]
    out = args.work_dir / "compare" / args.name
    command = [sys.executable, "tools/compare.py", *pairs, "--common-reference"]
    command += ["--out", str(out), *args.options]
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)
    # The page is written by hand, around tables that tools/results_page.py takes from these.
    for ending in (".csv", "_budgets.csv", ".png"):
        path = out.with_name(args.name + ending)
        if path.exists():
            shutil.copy(path, args.results)


def fragments(args: argparse.Namespace) -> list[tuple[str, Path, str]]:
    """Configs of norm gates, by name, with their checkpoints.

    For the dense checkpoint: learned thresholds that were calibrated after, untrained calibrated
    ones, and a range of one threshold for all layers. For networks that were trained with their
    thresholds: those, calibrated for other budgets (``joint-<percent trained for, or another
    name>-<budget>mmac``).
    """
    configs = ROOT / "configs" / "small"
    found = [
        (f"learned, calibrated/0.{path.stem.rpartition('-')[2]}", path, DENSE[1])
        for path in sorted(configs.glob("*_learned-[0-9]*.py"), reverse=True)
    ]
    for path in sorted(configs.glob("*_joint-*mmac.py")):
        kind, _, budget = path.stem.partition("_joint-")[2].removesuffix("mmac").rpartition("-")
        weights = f"configs/small/hrnet_small_joint-{kind}.pth"
        curve = f"joint 0.{kind}" if kind.isdigit() else f"joint, {kind.replace('-', ', ')}"
        found.append((f"{curve}, calibrated/{budget}", path, weights))
    for path in sorted(configs.glob("*_calibrated*.py")):
        kind, _, budget = path.stem.partition("_calibrated")[2].strip("-").rpartition("-")
        curve = "calibrated" + (f", {kind or budget}" if "block" in path.stem else "")
        found.append((f"{curve}/{budget or 'own'}", path, DENSE[1]))
    for eps in args.eps:
        path = args.work_dir / "untrained" / f"eps_{eps}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        gate = f"dict(type='InputNormGate', eps={eps}, block=1)"
        path.write_text(
            f"_base_ = [{str(ROOT / DENSE[0])!r}]\nmodel = dict(backbone=dict(gate={gate}))\n"
        )
        found.append((f"untrained norm/{eps}", path, DENSE[1]))
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("what", choices=("train", "compare"))
    options.add_argument(
        "--rows", nargs="+", metavar="ROW", help="some, by name, in any order (default: all)"
    )
    options.add_argument("--name", default="learned_gates", help="of the tables of `compare`")
    options.add_argument("--iters", type=int, help="of each training (default: its config's)")
    options.add_argument("--work-dir", type=Path, default=Path("work_dirs/learned_gates"))
    options.add_argument("--results", type=Path, default=Path("results"), help="for the tables")
    options.add_argument(
        "--eps",
        type=float,
        nargs="*",
        default=[0.1, 0.15, 0.3],
        help="thresholds of the untrained norm gates to compare with",
    )
    args, args.options = options.parse_known_args()
    if args.what == "train" and args.options:
        options.error(f"train knows no {' '.join(args.options)}; rows are named by --rows")
    args.work_dir, args.results = args.work_dir.resolve(), args.results.resolve()
    known = list(ROWS)
    if args.what == "compare":
        known += [FIRST, *(name for name, *_ in fragments(args))]
    for name in args.rows or ():
        if name not in known:
            options.error(f"there is no row {name!r}; there are {', '.join(known)}")
    args.rows = args.rows or known
    if args.what == "train":
        for name in ROWS:
            if name in args.rows:
                train(name, args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
