"""What GateVisualizationHook adds to a training step, at its defaults and switched off.

    python tools/dataset_converters/synthetic.py --out data/synthetic --clips 16
    export SKIPPOSE_SYNTHETIC=data/synthetic
    python benchmarks/gate_hook.py
    python benchmarks/gate_hook.py --rounds 3                 # a minute, to try it out
    python benchmarks/gate_hook.py --threads 1 --clock cpu    # on a busy machine

One network of a config makes the same training step (forward, backward, optimiser) on the same
batch, with the runner's own vis backends, in four ways that take turns within a round:

- ``none``: no hook at all;
- ``off``: the hook with ``enable=False``;
- ``between``: the hook in an iteration that is not due;
- ``due``: the hook in an iteration that is due, once in ``interval`` ones.

``at its defaults`` is what follows for the mean step: ``(interval - 1)`` of ``between`` and one of
``due``. Ratios are of neighbours in time. Rows are appended to ``benchmarks/data/gate_hook.csv``.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table
from train_step import CLOCKS, processor, save

import skippose  # noqa: F401  (registers its models, data sets and hooks)
from skippose.checkpoints import checkpoints_run_no_code
from skippose.engine import GateVisualizationHook

ROOT = Path(__file__).resolve().parents[1]
FIELDS = [
    "date", "machine", "torch", "threads", "clock", "commit", "config", "options", "layers",
    "batch", "interval", "way", "rounds", "median_s", "ratio", "ratio_p20", "ratio_p80",
]  # fmt: skip
WAYS = ("none", "off", "between", "due")


class Stepper:
    """Training steps of a runner on one batch, with or without a hook."""

    def __init__(self, runner: Runner, clock: Callable[[], float]) -> None:
        self.runner, self.clock = runner, clock
        self.hooks = {"off": GateVisualizationHook(enable=False)}
        self.hooks["between"] = self.hooks["due"] = GateVisualizationHook()
        self.interval = self.hooks["due"].interval
        loop = runner.build_train_loop(runner._train_loop)  # type: ignore[arg-type]
        runner._train_loop = loop
        loop._iter = 1  # the hook's first iteration is due whatever its index
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        with checkpoints_run_no_code():
            runner._init_model_weights()
            runner.load_or_resume()
        runner.model.train()
        self.batch: Any = next(iter(loop.dataloader))

    def step(self, way: str) -> float:
        """Seconds of one step."""
        # every_n_inner_iters counts from 1.
        index = self.interval - 1 if way == "due" else 0
        hook = self.hooks.get(way)
        start = self.clock()
        if hook is not None:
            hook.before_train_iter(self.runner, index, self.batch)
        if (way == "due") != (hook is not None and hook._passes is not None):
            raise RuntimeError(f"the hook watches in the wrong iterations: {way!r}, {index}")
        outputs = self.runner.model.train_step(self.batch, optim_wrapper=self.runner.optim_wrapper)
        if hook is not None:
            hook.after_train_iter(self.runner, index, self.batch, outputs)
        return self.clock() - start


def measure(args: argparse.Namespace, folder: str) -> tuple[Stepper, dict[str, list[float]]]:
    """Seconds of each way, round by round."""
    config = Config.fromfile(args.config)
    config.work_dir = folder
    config.log_level = "WARNING"
    config.train_dataloader.update(num_workers=0, persistent_workers=False)
    config.merge_from_dict(args.cfg_options)
    stepper = Stepper(Runner.from_cfg(config), CLOCKS[args.clock])
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:
        stepper.step(way)
    for number in track(range(args.rounds), console=Console(stderr=True)):
        # Everyone is first in some round.
        for n in range(len(WAYS)):
            way = WAYS[(n + number) % len(WAYS)]
            times[way].append(stepper.step(way))
    return stepper, times


def figures(args: argparse.Namespace, stepper: Stepper, times: dict[str, list[float]]) -> list:
    """A row for each way, and one for the mean step at the hook's defaults."""
    n = stepper.interval
    times = dict(times)
    times["at its defaults"] = [
        ((n - 1) * between + due) / n
        for between, due in zip(times["between"], times["due"], strict=True)
    ]
    model = stepper.runner.model
    layers = sum(getattr(m, "gate", None) is not None for m in model.modules())
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    rows = []
    for way, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["none"], strict=True)]
        low, high = np.quantile(ratios, (0.2, 0.8))
        rows.append(
            dict(
                date=datetime.date.today().isoformat(),
                machine=args.machine,
                torch=torch.__version__,
                threads=torch.get_num_threads(),
                clock=args.clock,
                commit=subprocess.run(git, capture_output=True, text=True).stdout.strip(),
                config=Path(args.config).stem,
                options=" ".join(f"{k}={v}" for k, v in args.cfg_options.items()),
                layers=layers,
                batch="x".join(map(str, (len(stepper.batch["inputs"]), *args.shape))),
                interval=n,
                way=way,
                rounds=args.rounds,
                median_s=f"{statistics.median(seconds):.4f}",
                ratio=f"{statistics.median(ratios):.4f}",
                ratio_p20=f"{low:.4f}",
                ratio_p80=f"{high:.4f}",
            )
        )
    return rows


def show(rows: list[dict]) -> None:
    """The rows as a table."""
    table = Table(title="a training step with GateVisualizationHook")
    for column in ("", "s", "x none (p20, p80)", "target"):
        table.add_column(column)
    for row in rows:
        target = {"off": "1", "at its defaults": "< 1.03"}.get(row["way"], "")
        ratio = f"{row['ratio']} ({row['ratio_p20']}, {row['ratio_p80']})"
        table.add_row(row["way"], row["median_s"], ratio, target)
    Console(width=100).print(table)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=str(ROOT / "configs" / "demo" / "skip_hrnet_small.py"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="'cpu' counts the process's own time: on a busy machine, with --threads 1",
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE"
    )
    parser.add_argument("--machine", default=processor(), help="how the rows name this machine")
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "data" / "gate_hook.csv")
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads > 1:
        parser.error("--clock cpu needs --threads 1; waiting threads burn time")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        stepper, times = measure(args, folder)
        args.shape = tuple(stepper.batch["inputs"][0].shape)
        rows = figures(args, stepper, times)
        stepper.runner.visualizer.close()
    show(rows)
    save(rows, args.csv, FIELDS)


if __name__ == "__main__":
    main()
