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

The calibration clips are --clips training clips at even distances, cropped as the test clips are.
What has been measured is kept in --cache: an interrupted run is simply started again.
"""

import argparse
import csv
import hashlib
import json
import logging
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import skippose  # registers its models, data sets and metrics
from skippose.calibration import (
    Probe,
    Sensitivity,
    allocate,
    gradient_sensitivity,
    scale_to,
    single_layer_sensitivity,
)
from skippose.calibration.allocation import Unreachable
from skippose.calibration.fragment import config_fragment, rounded, wrapped
from skippose.calibration.store import Store
from skippose.evaluation.clip_bank import (
    LoadedClip,
    build_dataset,
    data_identity,
    file_digest,
    load_clips,
    set_threads,
    spread,
)
from skippose.evaluation.comparison import (
    Result,
    build_network,
    dense_model,
    evaluate,
    frozen_model,
)
from skippose.evaluation.scores import METRICS
from skippose.gates import NormGate

CONSOLE = Console()
METHODS = ("global", "single", "gradient")
SPAN = 4.0  # levels reach from a quarter of a threshold to four times it
LOSS = [n for n, metric in enumerate(METRICS) if metric.name in ("PCK@0.2", "PCK@0.1")]


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
    options.add_argument("--clips", type=int, default=16, help="calibration clips (default: 16)")
    options.add_argument("--frames", type=int, default=32, help="frames of each (default: 32)")
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
    return args


def calibration_set(config: Config) -> dict[str, Any]:
    """The training clips, whole, cropped and prepared as the test clips are."""
    train, test = (config[f"{name}_dataloader"].dataset.to_dict() for name in ("train", "test"))
    test["dataset"].update(
        {k: v for k, v in train["dataset"].items() if k in ("ann_file", "data_root", "data_prefix")}
    )
    return test


class Calibration:
    """One network, one goal."""

    def __init__(self, args: argparse.Namespace, progress: Progress) -> None:
        self.args, self.progress = args, progress
        self.task = progress.add_task("reading clips", total=None)
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options)
        self.model = config.model.to_dict()
        data = calibration_set(config)
        identity = [
            self.model,
            file_digest(args.checkpoint),
            data_identity(data, args.clips),
            args.frames,
            args.seed,
            args.magnitudes,
        ]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
        self.store = Store(args.cache / f"{args.out.stem}.json", digest.hexdigest())
        dataset = build_dataset(data)
        self._stage("reading clips", len(spread(len(dataset), args.clips)))
        whole = load_clips(dataset, args.clips, self._step)
        self.clips = [
            LoadedClip(c.clip_id, c.inputs[: args.frames], c.samples[: args.frames]) for c in whole
        ]
        network = build_network(self.model, args.checkpoint, args.device)
        self.probe = Probe(network, self.clips, on_clip=self._step)
        start = self.probe.thresholds
        start[start == 0] = 0.1
        self.scale = None
        if args.magnitudes == "calibrated":
            units = np.array(self.store.get(["magnitudes"], lambda: self._magnitudes()))
            for layer in self.probe.layers.values():
                assert isinstance(layer.gate, NormGate)
                if layer.gate.scale == "absolute":
                    raise SystemExit("--magnitudes calibrated needs gates with scale='relative'")
                layer.gate.scale = "absolute"
            start, self.scale = start * units, "absolute"
        self.start = start
        self.references: list[Result] | None = None

    def _magnitudes(self) -> list[float]:
        return self.probe.magnitudes().tolist()

    def _stage(self, name: str, total: int) -> None:
        self.progress.reset(self.task, description=name, total=total)

    def _step(self) -> None:
        self.progress.advance(self.task)

    # -- what thresholds give --------------------------------------------------------------------

    def run(self, thresholds: np.ndarray) -> tuple[float, float]:
        """GMACs and heat map error."""

        def answer() -> list[float]:
            self._stage("running", len(self.clips))
            return list(self.probe.run(thresholds))

        gmacs, error = self.store.get(["run", thresholds], answer)
        return gmacs, error

    def loss(self, thresholds: np.ndarray) -> float:
        """The greater of the losses at PCK@0.2 and PCK@0.1, in percent."""

        def answer() -> float:
            if self.references is None:
                models = (dense_model(self.model), frozen_model(self.model))
                self.references = [
                    self._evaluate(build_network(m, self.args.checkpoint, self.args.device))
                    for m in models
                ]
            self.probe.thresholds = thresholds
            found = self._evaluate(self.probe.network)
            losses = []
            for n in LOSS:
                dense, frozen, here = (float(r.scores.pck(n)[0]) for r in (*self.references, found))
                if dense <= frozen:
                    raise SystemExit(
                        f"{METRICS[n].name} on the calibration clips: dense {dense:.4f}, frozen "
                        f"{frozen:.4f}; a loss means nothing here, use --target-gmacs"
                    )
                losses.append(100 * (dense - here) / (dense - frozen))
            return max(losses)

        return float(self.store.get(["loss", thresholds], answer))

    def _evaluate(self, network: Any) -> Result:
        self._stage("accuracy", len(self.clips))
        return evaluate(network, self.clips, ["all"] * len(self.clips), lambda n: self._step())

    # -- the methods -----------------------------------------------------------------------------

    def reach(self, vector: np.ndarray, gmacs: float | None) -> np.ndarray:
        """A vector of thresholds, scaled to the goal, or to given GMACs."""
        goal = self.args.target_gmacs if gmacs is None else gmacs
        if goal is not None:
            found = scale_to(
                lambda factor: self.run(rounded(vector * factor))[0],
                goal,
                falling=True,
                what="GMACs per frame",
            )
        else:
            found = scale_to(
                lambda factor: self.loss(rounded(vector * factor)),
                self.args.max_loss,
                falling=False,
                what="the loss (percent of dense - frozen)",
                tolerance=0.1,
                tries=8,
            )
        return rounded(vector * found.factor)

    def levels(self, vector: np.ndarray, span: float = SPAN) -> np.ndarray:
        """(L, K) thresholds around a vector."""
        return vector[:, None] * span ** np.linspace(-1, 1, self.args.levels)  # exact in the middle

    def solve(self, method: str) -> np.ndarray:
        """The thresholds that a method finds."""
        vector = self.reach(self.start, None)
        if method == "global":
            return vector
        for n in range(self.args.rounds if method == "gradient" else 1):
            # Narrower with every round: the first is right about the direction, not the distance.
            levels = self.levels(vector, SPAN / 2**n)
            measure = self.gradient if method == "gradient" else self.single
            found = measure(vector, levels)
            # As much as the layers cost now, by the same measure; the factor does the rest.
            chosen = allocate(found, float(found.gmacs[:, self.args.levels // 2].sum()))
            vector = self.reach(np.take_along_axis(levels, chosen[:, None], 1)[:, 0], None)
        return vector

    def gradient(self, vector: np.ndarray, levels: np.ndarray) -> Sensitivity:
        """One forward and two backward passes over every clip, at the given thresholds."""
        self._stage("sensitivities", len(self.clips))
        parts = []
        for n, images in enumerate(self.probe.images):

            def answer(n: int = n, images: torch.Tensor = images) -> list[Any]:
                generator = torch.Generator().manual_seed(1000 * self.args.seed + n)
                self.probe.thresholds = vector
                found = gradient_sensitivity(
                    self.probe.network,
                    self.probe.layers,
                    images,
                    self.probe.dense[n],
                    levels,
                    generator,
                )
                return [found.error.tolist(), found.gmacs.tolist()]

            known = self.store.get(["gradient", vector, levels, n], answer)
            parts.append(Sensitivity(*map(np.array, known)))
            self._step()
        return sum(parts[1:], parts[0]) / len(parts)

    def single(self, vector: np.ndarray, levels: np.ndarray) -> Sensitivity:
        """Layers x levels runs, on a quarter of the clips."""
        few = spread(len(self.clips), max(1, len(self.clips) // 4))
        self._stage("sensitivities", levels.size)
        parts = []
        for n, row in enumerate(levels):

            def answer(n: int = n, row: np.ndarray = row) -> list[Any]:
                found = single_layer_sensitivity(self.probe, n, row.tolist(), few)
                return [found.error.tolist(), found.gmacs.tolist()]

            before = len(self.store.found)
            known = self.store.get(["single", row, n, few], answer)
            if len(self.store.found) == before:
                self.progress.advance(self.task, len(row))
            parts.append([np.array(x)[0] for x in known])
        return Sensitivity(*(np.stack(part) for part in zip(*parts, strict=True)))


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    set_threads(args.threads)
    MMLogger.get_instance("calibrate", log_level=logging.WARNING)
    how = shlex.join(["python", "tools/calibrate.py", *(arguments or sys.argv[1:])])
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    outcomes = []
    with Progress(*columns, console=CONSOLE) as progress:
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
    dense = sum_of_dense(calibration)
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


def sum_of_dense(calibration: Calibration) -> float:
    """GMACs of a frame of the dense network."""
    with torch.inference_mode(), skippose.clips(1) as run:
        calibration.probe.network._forward(calibration.probe.images[0][:1])
    return run.report(calibration.probe.network).dense_gmacs


if __name__ == "__main__":
    main()
