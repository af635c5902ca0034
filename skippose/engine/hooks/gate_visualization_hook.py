"""Gate overlays of validation clips, for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from mmpose.registry import HOOKS
from numpy.typing import NDArray

from skippose.context import clips
from skippose.frames_pass import CallRecord
from skippose.visualization import cost_map, gate_on_frame, overlay_gate, overlay_heat


@HOOKS.register_module()
class GateVisualizationHook(Hook):
    """Shows where a clip was computed.

    Of the first clips of every validation and test, strips of frames go to the vis backends:
    ``gates/<clip>/cost``, where the MACs went over all layers, and ``gates/<clip>/<layer>`` for
    chosen layers, tinted where computed and grey where skipped. The clip runs through the network
    once more for it.

    Args:
        layers: names or glob patterns of gated layers to show.
        num_clips: how many clips of an evaluation.
        num_frames: frames per strip, at even distances over the clip's first ``max_length`` frames.
        max_length: frames of the clip that run once more.
        enable: False switches the hook off.
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
        enable: bool = True,
    ) -> None:
        if min(num_frames, max_length) < 1:
            raise ValueError(
                f"num_frames and max_length must be at least 1, got {num_frames}, {max_length}"
            )
        self.layers = tuple(layers)
        self.num_clips = num_clips
        self.num_frames = num_frames
        self.max_length = max_length
        self.enable = enable

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

    @torch.no_grad()
    def _draw(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
        wanted = self.enable and batch_idx < self.num_clips and is_main_process()
        if not wanted or data_batch is None or data_batch["inputs"][0].dim() != 4:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        raw = data_batch["inputs"][0][: self.max_length]
        samples = list(data_batch["data_samples"][0])[: len(raw)]
        batch = model.data_preprocessor({"inputs": [raw], "data_samples": [samples]}, False)
        with clips(len(raw), keep_masks=True) as run:
            model(batch["inputs"], mode="tensor")
        names = {module: name for name, module in model.named_modules()}
        records = {
            names[call.layer]: record
            for call, record in run.records.items()
            if record.gate is not None and call.number == 0
        }
        if not records:
            return
        clip = str(samples[0].metainfo.get("clip_id", batch_idx))
        images = raw.permute(0, 2, 3, 1).cpu().numpy()
        if getattr(model.data_preprocessor, "_channel_conversion", True):
            images = images[..., ::-1]  # OpenCV loads BGR; pictures are RGB
        images = np.ascontiguousarray(images)
        for name, strip in self._strips(images, records).items():
            tag = f"gates/{clip}/{name}"
            _make_folders(runner, tag)
            runner.visualizer.add_image(tag, strip, step=runner.iter)

    def _strips(
        self, images: NDArray[np.uint8], records: dict[str, CallRecord]
    ) -> dict[str, NDArray[np.uint8]]:
        size = images.shape[1:3]
        count = min(self.num_frames, len(images))
        frames = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
        heat = [overlay_heat(images[t], cost_map(records.values(), 0, t, size)) for t in frames]
        strips = {"cost": np.hstack(heat)}
        for name, record in records.items():
            if any(fnmatchcase(name, pattern) for pattern in self.layers):
                drawn = [overlay_gate(images[t], gate_on_frame(record, 0, t, size)) for t in frames]
                strips[name] = np.hstack(drawn)
        return strips


def _make_folders(runner: Runner, tag: str) -> None:
    """Folders for a tag with slashes, without which LocalVisBackend writes nothing, silently."""
    for backend in runner.visualizer._vis_backends.values():
        if isinstance(backend, LocalVisBackend):
            folder = Path(backend.experiment._img_save_dir)
            (folder / tag).parent.mkdir(parents=True, exist_ok=True)
