"""Networks on the same clips: what each row of a comparison runs, and what it found."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmpose.registry import MODELS
from torch import nn

from skippose.checkpoints import load_checkpoint, weights_of
from skippose.evaluation.clip_bank import LoadedClip
from skippose.evaluation.scores import Scores, clip_scores
from skippose.files import replace_file
from skippose.report import LayerCost, Report, total

ROLES = ("dense, crop per frame", "dense", "frozen", "network")
"""A row's part in the comparison; the first three are what a network is compared with."""

_GATES = ("gate", "reference", "overrides", "gate_loss")
_VERSION = 1  # raise it when the same row would give other numbers


@dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Attributes:
        name: what the tables call it.
        role: one of `ROLES`.
        model: the network's config.
        dataset: the config of the clips.
        data: their digest, see ``data_identity``.
        config: the config file.
        checkpoint: the checkpoint file.
        sha256: its digest.
        variant: what was changed of the config.
        perturb: the disturbance of the frames, or ``'none'``.
        clips: how many clips; None for all.
    """

    name: str
    role: str
    model: dict[str, Any] = field(repr=False)
    dataset: dict[str, Any] = field(repr=False)
    data: str
    config: str
    checkpoint: str
    sha256: str
    variant: dict[str, Any]
    perturb: str = "none"
    clips: int | None = None

    @property
    def identity(self) -> str:
        """A digest of everything that the row's numbers depend on; not of its name."""
        content = [_VERSION, self.model, self.data, self.sha256]
        return hashlib.sha256(
            json.dumps(content, sort_keys=True, default=str).encode()
        ).hexdigest()[:16]

    @property
    def group(self) -> tuple[str, str]:
        """What rows share that are compared with one another: checkpoint and disturbance."""
        return self.sha256, self.perturb


def dense_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A network's config without its gates; gates alike give the same."""
    dense = dict(deepcopy(model))
    dense["backbone"] = dict(dense["backbone"])
    for part in (dense, dense["backbone"]):
        for key in _GATES:
            part.pop(key, None)
    return dense


def frozen_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The dense network whose first output is held for the whole clip."""
    frozen = dense_model(model)
    frozen["test_cfg"] = {**frozen.get("test_cfg", {}), "mode": "frozen"}
    return frozen


def build_network(
    model: Mapping[str, Any],
    checkpoint: str,
    device: str = "cpu",
    allow_checkpoint_code: bool = False,
) -> nn.Module:
    """The estimator of a config with a checkpoint's weights, for testing.

    Args:
        model: the network's config.
        checkpoint: a file, or what else `load_checkpoint` takes.
        device: where the network runs.
        allow_checkpoint_code: see `load_checkpoint`.

    Raises:
        CheckpointError: see `load_checkpoint`.
        ValueError: if the checkpoint lacks weights, or has them in other shapes. Keys of gates may
            be missing (a dense checkpoint) or too many (a gated one in a dense network).
    """
    init_default_scope("mmpose")
    network = MODELS.build(deepcopy(dict(model)))
    content = load_checkpoint(checkpoint, "cpu", allow_checkpoint_code)
    state = weights_of(content, checkpoint)
    renamed = OrderedDict((key.removeprefix("module."), value) for key, value in state.items())
    renamed._metadata = getattr(state, "_metadata", {})  # type: ignore[attr-defined]
    try:
        found = network.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} does not fit the config: {error}") from error
    # Gates and their loss are no part of a dense checkpoint.
    own = ("gate.", "gate_loss.")
    missing = [key for key in found.missing_keys if not any(part in key for part in own)]
    if missing:
        raise ValueError(
            f"{checkpoint} does not fit the config: it lacks {len(missing)} of "
            f"{len(network.state_dict())} tensors, the first is {missing[0]!r}"
        )
    return network.to(device).eval()


@dataclass(frozen=True)
class Result:
    """What a row found, clip by clip.

    Attributes:
        clip_ids: the C clips.
        cameras: ``'still'`` or ``'moving'``, for each clip.
        scores: joints found and there.
        reports: costs of each clip.
    """

    clip_ids: list[str]
    cameras: list[str]
    scores: Scores
    reports: list[Report]

    def subset(self, which: str) -> Result:
        """The clips of one camera, or all of them (``'all'``)."""
        chosen = [n for n, camera in enumerate(self.cameras) if which in ("all", camera)]
        return Result(
            [self.clip_ids[n] for n in chosen],
            [self.cameras[n] for n in chosen],
            self.scores.of(chosen),
            [self.reports[n] for n in chosen],
        )

    @property
    def report(self) -> Report:
        """Costs over all clips."""
        return total(self.reports)

    @property
    def spent(self) -> np.ndarray:
        """(C,) GMACs of each clip's frames after the first, gates included."""
        return np.array([r.gmacs * r.frames if r.frames else 0.0 for r in self.reports])

    @property
    def frames(self) -> np.ndarray:
        """(C,) counted frames of each clip."""
        return np.array([r.frames for r in self.reports])

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Writes the result as JSON, complete or not at all."""
        layers = [asdict(layer) for layer in self.reports[0].layers]
        for layer in layers:
            del layer["density_sum"], layer["gate_density_sum"]
        content = {
            **about,
            "clip_ids": self.clip_ids,
            "cameras": self.cameras,
            "correct": self.scores.correct.tolist(),
            "valid": self.scores.valid.tolist(),
            "layers": layers,
            "frames": [[r.frames, r.first_frames] for r in self.reports],
            "density_sums": [[x.density_sum for x in r.layers] for r in self.reports],
            "gate_density_sums": [[x.gate_density_sum for x in r.layers] for r in self.reports],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(content))

    @classmethod
    def load(cls, path: Path) -> Result:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: for a file that is no such result.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            reports = [
                Report(
                    tuple(
                        LayerCost(**layer, density_sum=d, gate_density_sum=g)
                        for layer, d, g in zip(content["layers"], density, looked, strict=True)
                    ),
                    *counts,
                )
                for counts, density, looked in zip(
                    content["frames"],
                    content["density_sums"],
                    content["gate_density_sums"],
                    strict=True,
                )
            ]
            scores = Scores(np.array(content["correct"]), np.array(content["valid"]))
            return cls(content["clip_ids"], content["cameras"], scores, reports)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a comparison's result ({error}); delete it") from error


@torch.inference_mode()
def evaluate(
    network: Any,
    clips: Sequence[LoadedClip],
    cameras: Sequence[str],
    on_clip: Callable[[int], None] = lambda frames: None,
) -> Result:
    """Runs an estimator over clips, one at a time, as ``tools/test.py`` does.

    Args:
        network: a ``SkipTopdownPoseEstimator`` in evaluation mode.
        clips: the clips, read and cropped.
        cameras: for each clip whether its camera is still.
        on_clip: called after each clip with its number of frames.

    Raises:
        TypeError: for an estimator that does not tell its costs.
    """
    correct, valid, reports = [], [], []
    for clip in clips:
        predictions = network.test_step(clip.batch)
        report = getattr(predictions[0], "sparsity", None)
        if report is None:
            raise TypeError(
                f"{type(network).__name__} does not tell its costs; use SkipTopdownPoseEstimator "
                "with ClipPoseDataPreprocessor"
            )
        found, there = clip_scores(predictions)
        correct.append(found)
        valid.append(there)
        reports.append(report)
        on_clip(len(clip))
    scores = Scores(np.stack(correct), np.stack(valid))
    return Result([clip.clip_id for clip in clips], list(cameras), scores, reports)
