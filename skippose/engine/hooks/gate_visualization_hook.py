"""What is skipped, in training and in validation clips, for TensorBoard and other backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from mmpose.registry import HOOKS
from torch import nn

from skippose.files import as_plain_name
from skippose.frames_pass import FramesPass
from skippose.layers import gated_layers
from skippose.visualization.clip_gates import run_clip
from skippose.visualization.gate_trace import LogitWatch, PassWatch
from skippose.visualization.layer_tags import choose_layers, part_of, scalar_tag


@HOOKS.register_module()
class GateVisualizationHook(Hook):
    """Shows what a gated network computes, through the runner's vis backends.

    In training, in the first iteration and every ``interval``, where a gate can be closed (Gumbel
    gates, norm gates with ``train_gates=True``):

    - ``gates/density`` (mean over layers), ``gates/density_of/<part>``, ``gates/gmacs`` (expected
      GMACs per frame, gates included), ``gates/share`` of the dense network's, ``gates/loss``;
    - ``gates.<part>/<layer>/density`` for ``scalar_layers``;
    - ``gates.<part>/<layer>/logits``: histograms of Gumbel gates, for ``layers``, where a backend
      can draw them.

    TensorBoard folds tags by what precedes the first slash, so each part of the network (``stem``,
    ``stage3``, ``head``) is a group of its own. All of rank 0's batch.

    Of the first clips of every validation and test, pictures: ``gates/<clip>/pose`` (predicted),
    ``…/cost`` (where the MACs went over all layers), ``…/layers_over_time`` (a heat map),
    ``…/macs_over_time``, ``…/density`` (bars), and ``gates/<clip>/<part>/<layer>`` for ``layers``,
    tinted where computed and grey where skipped. The clip runs through the network once more for
    it.

    Args:
        layers: names, tags or glob patterns of gated layers to show.
        num_clips: how many clips of an evaluation.
        num_frames: frames per strip, at even distances over the clip's first ``max_length`` frames.
        max_length: frames of the clip that run once more.
        max_layers: at most so many of ``layers``.
        interval: training iterations between scalars; 0 for none.
        scalar_layers: as ``layers``, for densities in training.
        enable: False switches the hook off.

    Raises:
        ValueError: for a number out of its range.
    """

    priority = "LOW"

    def __init__(
        self,
        layers: Sequence[str] = (
            "backbone.conv1",
            "backbone.stage[234].0.branches.0.0.conv1",
            "head.final_layer",
        ),
        num_clips: int = 1,
        num_frames: int = 6,
        max_length: int = 24,
        max_layers: int = 12,
        interval: int = 50,
        scalar_layers: Sequence[str] = ("*",),
        enable: bool = True,
    ) -> None:
        if min(num_frames, max_length) < 1:
            raise ValueError(
                f"num_frames and max_length must be at least 1, got {num_frames}, {max_length}"
            )
        if min(interval, max_layers) < 0:
            raise ValueError(
                f"interval and max_layers must be at least 0, got {interval}, {max_layers}"
            )
        self.layers = tuple(layers)
        self.num_clips = num_clips
        self.num_frames = num_frames
        self.max_length = max_length
        self.max_layers = max_layers
        self.interval = interval
        self.scalar_layers = tuple(scalar_layers)
        self.enable = enable
        self._passes: PassWatch | None = None
        self._logits: LogitWatch | None = None

    # -- training --------------------------------------------------------------------------------

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begins to watch an iteration that is due."""
        self._stop()
        # From the first iteration on: gates that collapse do so early.
        due = self.interval and (
            runner.iter == 0 or self.every_n_inner_iters(batch_idx, self.interval)
        )
        if not (self.enable and due and is_main_process()):
            return
        model = _unwrapped(runner.model)
        gated = gated_layers(model)
        if all(layer.gate is None or layer.gate.always_open for layer in gated.values()):
            return
        self._passes = PassWatch(model)
        chosen = choose_layers(gated, self.layers, self.max_layers)
        self._logits = LogitWatch({name: gated[name] for name in chosen})

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Writes what was seen."""
        if self._passes is None or self._logits is None:
            return
        run, logits = self._passes.run, self._logits.logits
        self._stop()
        if run is None:
            return
        scalars = self._scalars(run, _unwrapped(runner.model))
        if outputs is not None and "loss_gate" in outputs:
            scalars["gates/loss"] = float(outputs["loss_gate"].detach())
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
        for backend in runner.visualizer._vis_backends.values():
            add_histogram = getattr(backend.experiment, "add_histogram", None)
            if add_histogram is not None:
                for name, values in logits.items():
                    add_histogram(scalar_tag(name, "logits"), values.numpy(), runner.iter + 1)

    def _scalars(self, run: FramesPass, model: nn.Module) -> dict[str, float]:
        report = run.report(model)
        densities = report.densities
        scalars = {
            "gates/density": float(np.mean(list(densities.values()))),
            "gates/gmacs": report.gmacs,
            "gates/share": report.gmacs / report.dense_gmacs,
        }
        parts: dict[str, list[float]] = {}
        for name, density in densities.items():
            parts.setdefault(part_of(name), []).append(density)
        for part, values in parts.items():
            scalars[f"gates/density_of/{part}"] = float(np.mean(values))
        for name in choose_layers(densities, self.scalar_layers, len(densities)):
            scalars[scalar_tag(name, "density")] = densities[name]
        return scalars

    def _stop(self) -> None:
        if self._passes is not None:
            self._passes.remove()
        if self._logits is not None:
            self._logits.remove()
        self._passes = self._logits = None

    # -- validation and test ---------------------------------------------------------------------

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draws the first clips of a validation."""
        self._draw(runner, batch_idx, data_batch)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draws the first clips of a test."""
        self._draw(runner, batch_idx, data_batch)

    def _draw(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
        wanted = self.enable and batch_idx < self.num_clips and is_main_process()
        if not wanted or data_batch is None or data_batch["inputs"][0].dim() != 4:
            return
        raw = data_batch["inputs"][0][: self.max_length]
        samples = list(data_batch["data_samples"][0])[: len(raw)]
        clip = run_clip(_unwrapped(runner.model), raw, samples)
        if clip is None:
            return
        name = _short_name(str(samples[0].metainfo.get("clip_id", batch_idx)))
        layers = choose_layers(clip.records, self.layers, self.max_layers)
        links = (runner.visualizer.dataset_meta or {}).get("skeleton_links", ())
        frames = clip.even_frames(self.num_frames)
        # Asking `runner.iter` builds the training loop, and a test may have no training data.
        untrained = runner._train_loop is None or isinstance(runner._train_loop, dict)
        step = 0 if untrained else runner.iter
        for picture, image in clip.pictures(layers, frames, links):
            tag = f"gates/{name}/{picture}"
            _make_folders(runner, tag)
            runner.visualizer.add_image(tag, image, step=step)


def _unwrapped(model: nn.Module) -> Any:
    return model.module if is_model_wrapper(model) else model


def _short_name(clip_id: str) -> str:
    """A clip's part of a tag: its video's name alone, for TensorBoard shows the whole tag twice.

    LocalVisBackend makes files of tags, and ids are made of what annotation files say.
    """
    video, separator, track = clip_id.rpartition("#")
    return as_plain_name(video.rpartition("/")[2] + separator + track)


def _make_folders(runner: Runner, tag: str) -> None:
    """Folders for a tag with slashes, without which LocalVisBackend writes nothing, silently."""
    for backend in runner.visualizer._vis_backends.values():
        if isinstance(backend, LocalVisBackend):
            folder = Path(backend.experiment._img_save_dir)
            (folder / tag).parent.mkdir(parents=True, exist_ok=True)
