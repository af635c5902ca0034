"""What tools/calibrate.py does to one network: its clips, its measures and its methods."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from rich.progress import Progress

import skippose  # registers its models, data sets and metrics
from skippose.calibration import (
    Probe,
    Sensitivity,
    allocate,
    gradient_sensitivity,
    scale_to,
    single_layer_sensitivity,
)
from skippose.calibration.choice import motion, representative
from skippose.calibration.fragment import rounded
from skippose.calibration.store import Store
from skippose.evaluation.clip_bank import (
    LoadedClip,
    build_dataset,
    check_config,
    data_identity,
    file_digest,
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

POOL = 256  # clips at most that calibration clips are chosen from
SPAN = 4.0  # levels reach from a quarter of a threshold to four times it
LOSS = [n for n, metric in enumerate(METRICS) if metric.name in ("PCK@0.2", "PCK@0.1")]


def calibration_set(config: Config) -> dict[str, Any]:
    """The training clips, whole, cropped and prepared as the test clips are."""
    train, test = (config[f"{name}_dataloader"].dataset.to_dict() for name in ("train", "test"))
    test["dataset"].update(
        {k: v for k, v in train["dataset"].items() if k in ("ann_file", "data_root", "data_prefix")}
    )
    return test


def _store(path: Path, identity: str) -> Store:
    try:
        return Store(path, identity)
    except ValueError as error:
        raise SystemExit(f"--cache: {error}") from error


class Calibration:
    """One network, one goal."""

    def __init__(self, args: argparse.Namespace, progress: Progress) -> None:
        self.args, self.progress = args, progress
        self.task = progress.add_task("reading clips", total=None)
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options)
        try:
            check_config(config, args.config)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        self.model = config.model.to_dict()
        data = calibration_set(config)
        identity = [
            self.model,
            file_digest(args.checkpoint),
            data_identity(data, args.clips),
            args.choose,
            args.frames,
            args.seed,
            args.magnitudes,
        ]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
        self.store = _store(args.cache / f"{args.out.stem}.json", digest.hexdigest())
        dataset = build_dataset(data)
        if args.choose == "order":
            chosen = spread(len(dataset), args.clips)
        else:
            pool = spread(len(dataset), POOL)
            self._stage("looking for motion", len(pool))
            # Apart from the rest, for it is the same for all networks and goals.
            store = _store(args.cache / "motion.json", data_identity(data, POOL))
            known = store.get(["motion", args.frames], lambda: self._motion(dataset, pool))
            chosen = [pool[n] for n in representative(known, args.clips)]
        if len(chosen) < args.clips:
            progress.console.print(
                f"--clips {args.clips}: {len(chosen)} are used, of {len(dataset)} training clips"
            )
        self._stage("reading clips", len(chosen))
        self.clips = []
        for index in chosen:
            self.clips.append(self._clip(dataset, index))
            self._step()
        network = self._network(self.model)
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

    def _network(self, model: dict[str, Any]) -> Any:
        args = self.args
        return build_network(model, args.checkpoint, args.device, args.allow_checkpoint_code)

    def _clip(self, dataset: Any, index: int) -> LoadedClip:
        """The first frames of a clip."""
        item = dataset[index]
        samples = list(item["data_samples"])[: self.args.frames]
        # A copy: a view would keep the whole clip.
        return LoadedClip(samples[0].clip_id, item["inputs"][: self.args.frames].clone(), samples)

    def _motion(self, dataset: Any, pool: list[int]) -> list[float]:
        found = []
        for index in pool:
            found.append(motion(self._clip(dataset, index).inputs))
            self._step()
        return found

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

    @property
    def dense_gmacs(self) -> float:
        """GMACs of a frame of the dense network."""
        with torch.inference_mode(), skippose.clips(1) as run:
            self.probe.network._forward(self.probe.images[0][:1])
        return run.report(self.probe.network).dense_gmacs

    def loss(self, thresholds: np.ndarray) -> float:
        """The greater of the losses at PCK@0.2 and PCK@0.1, in percent."""

        def answer() -> float:
            if self.references is None:
                models = (dense_model(self.model), frozen_model(self.model))
                self.references = [self._evaluate(self._network(model)) for model in models]
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
