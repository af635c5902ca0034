"""A top-down pose estimator that takes clips."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from mmpose.models.pose_estimators import TopdownPoseEstimator
from mmpose.registry import MODELS
from torch import Tensor, nn

from skippose.context import clips
from skippose.convert import GateLike, convert_, introduce
from skippose.frames_pass import NetState
from skippose.layers import SkipConv2d, gated_layers
from skippose.ops import Reference
from skippose.report import Report
from skippose.stream import Stream

MODES = ("clip", "stream", "frozen")
# What is read of test_cfg: here, and by mmpose's top-down estimator and heads.
_TEST_CFG = ("mode", "chunk", "cut", "refresh_every")
_MMPOSE_TEST_CFG = (
    "flip_test",
    "flip_mode",
    "shift_heatmap",
    "shift_coords",
    "output_heatmaps",
    "output_keypoint_indices",
)


@MODELS.register_module()
class SkipTopdownPoseEstimator(TopdownPoseEstimator):
    """mmpose's top-down estimator on clips of frames, with gates in backbone, neck and head.

    Given a list of lists of samples (from ``ClipPoseDataPreprocessor``), the frames of a clip go
    through the network together; given a flat list, this is mmpose's estimator and the network is
    dense. The labelled frames alone are in the loss and in the predictions. The first prediction of
    each clip carries the clip's costs (``sample.sparsity``, a :class:`skippose.Report`).

    ``test_cfg`` takes, beside mmpose's keys:

    - ``mode``: ``'clip'`` (default): all frames of a clip at once; ``'stream'``: one at a time
      through :class:`skippose.Stream`, the way it runs behind a camera. Equal up to rounding.
      ``'frozen'``: the first frame's output for the whole clip, what results are measured from.
    - ``chunk``: frames that clip mode computes at once, to bound its memory; all by default.
    - ``cut``, ``refresh_every``: see :func:`skippose.clips`.

    With ``flip_test`` the flipped clip goes through the network as a clip of its own, with its own
    state; both passes are counted.

    Args:
        backbone: a gated backbone (``SkipHRNet``), or any other, which ``gate`` then converts.
        gate: the gate for all convolutions that have none of their own; by default the backbone's,
            so that the head is gated alike. ``False`` leaves them dense.
        reference: for those convolutions; by default the backbone's.
        overrides: gates of single layers among those, by name or glob pattern.
        gate_loss: config of a ``GateLoss``. Training with one needs gates that learn; testing does
            not, so that thresholds that were learned may be written down as fixed ones.
        consistency: weight of a further loss on clips, the mean square of the difference from the
            network's own dense answer, which is a target without a gradient. 0 leaves it out.
        **kwargs: as for ``TopdownPoseEstimator``.

    Raises:
        ValueError: for a gate that is True, an unknown key or mode of ``test_cfg``, a chunk below 1
            or a negative consistency.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        gate: GateLike | bool = None,
        reference: Reference | None = None,
        overrides: dict[str, GateLike] | None = None,
        gate_loss: dict[str, Any] | None = None,
        consistency: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if gate is True:
            raise ValueError("gate must be a gate, its config, None or False, got True")
        super().__init__(backbone=backbone, **kwargs)
        own = getattr(self.backbone, "gate", None)
        if gate is None:
            gate = own
        default: Reference = getattr(self.backbone, "reference", "hold")
        if gate or overrides:
            convert_(
                self,
                None if isinstance(gate, bool) else gate,
                filter_fn=lambda module, name: (
                    type(module) is nn.Conv2d
                    or (own is None and isinstance(module, SkipConv2d) and module.gate is None)
                ),
                overrides=overrides,
                reference=reference or default,
            )
        introduce(self)
        self.gate_loss = None if gate_loss is None else MODELS.build(gate_loss)
        if not (math.isfinite(consistency) and consistency >= 0):
            raise ValueError(f"consistency must be a number of at least 0, got {consistency!r}")
        self.consistency = float(consistency)
        self._check_test_cfg()

    def _check_gates_learn(self) -> None:
        gates = [layer.gate for layer in gated_layers(self).values() if layer.gate is not None]
        if not any(gate.learns for gate in gates):
            raise ValueError(
                f"gate_loss needs gates that learn (GumbelGate, GumbelNormGate), found "
                f"{', '.join(sorted({type(gate).__name__ for gate in gates})) or 'none'}; "
                "without such gates set gate_loss=None"
            )

    def _check_test_cfg(self) -> None:
        known = (*_TEST_CFG, *_MMPOSE_TEST_CFG)
        if unknown := sorted(set(self.test_cfg) - set(known)):
            raise ValueError(f"test_cfg has no {unknown[0]!r}; there are {', '.join(known)}")
        mode = self.test_cfg.get("mode", "clip")
        if mode not in MODES:
            raise ValueError(f"test_cfg mode must be one of {MODES}, got {mode!r}")
        chunk = self.test_cfg.get("chunk")
        if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f"test_cfg chunk must be a number of frames, at least 1, got {chunk}")

    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = "tensor"
    ) -> Any:
        """As mmpose's, for samples nested by clip too."""
        nested = _by_clip(data_samples)
        if nested is not None and mode == "predict" and self.metainfo is not None:
            for sample in chain.from_iterable(nested):
                sample.set_metainfo(self.metainfo)
            return self.predict(inputs, nested)
        return super().forward(inputs, data_samples, mode)

    # -- training --------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Task loss over labelled frames, plus the gate loss.

        Args:
            inputs: (B·T, 3, H, W).
            data_samples: B lists of samples, one for each real frame.

        Returns:
            mmpose's losses; ``loss_consistency`` where that has a weight; ``loss_gate`` where there
            is a gate loss; ``gate_share``, the share of the gated layers' MACs, which is logged and
            not a loss.

        Raises:
            ValueError: if no frame is labelled, or no gate can learn from the gate loss.
        """
        nested = _by_clip(data_samples)
        if nested is None:
            return super().loss(inputs, data_samples)
        if self.gate_loss is not None:
            self._check_gates_learn()
        lengths = [len(clip) for clip in nested]
        frames = inputs.shape[0] // len(nested)
        dense = None
        if self.consistency:  # first, for a layer's last pass must be that of the clips
            with torch.no_grad():
                dense = self._forward(inputs)
        with clips(frames, lengths) as run:
            run.expect(self)
            outputs = self._forward(inputs)
        labelled = [
            (b * frames + t, sample)
            for b, clip in enumerate(nested)
            for t, sample in enumerate(clip)
            if sample.metainfo.get("labelled", True)
        ]
        if not labelled:
            raise ValueError(
                "no frame of the batch is labelled; a training clip needs at least one"
            )
        rows = torch.tensor([row for row, _ in labelled], dtype=torch.long, device=inputs.device)
        losses = _decoder_of(self.head).loss(
            _select(outputs, rows), [s for _, s in labelled], train_cfg=self.train_cfg
        )
        if dense is not None:
            losses["loss_consistency"] = self.consistency * _distance(outputs, dense, lengths)
        share = (
            run.gate_loss()
            if gated_layers(self)
            else torch.zeros((), dtype=torch.float32, device="cpu")
        )
        if self.gate_loss is not None:
            losses["loss_gate"] = self.gate_loss(share)
        losses["gate_share"] = share.detach().to(inputs.device)
        return losses

    # -- testing ---------------------------------------------------------------------------------

    def predict(self, inputs: Tensor, data_samples: Sequence[Any]) -> list[Any]:
        """Predictions of the labelled frames, clip after clip.

        Args:
            inputs: (B·T, 3, H, W).
            data_samples: B lists of samples, one for each real frame.

        Returns:
            A flat list of samples with ``pred_instances``; the first of each clip has the clip's
            costs as ``sparsity``.
        """
        nested = _by_clip(data_samples)
        if nested is None:
            return super().predict(inputs, data_samples)
        lengths = [len(clip) for clip in nested]
        images = inputs.unflatten(0, (len(nested), -1))
        network = {
            "clip": self._through_clips,
            "stream": self._through_stream,
            "frozen": self._first_frames,
        }[self.test_cfg.get("mode", "clip")]
        outputs, reports = network(images, lengths)
        flipped = None
        if self.test_cfg.get("flip_test", False):
            flipped, more = network(images.flip(-1), lengths)
            reports = [a.beside(b, " (flipped)") for a, b in zip(reports, more, strict=True)]

        results = []
        for b, clip in enumerate(nested):
            labelled = [t for t, s in enumerate(clip) if s.metainfo.get("labelled", True)]
            if not labelled:
                continue
            rows = torch.tensor(
                [b * images.shape[1] + t for t in labelled], dtype=torch.long, device=inputs.device
            )
            seen = _select(outputs, rows)
            feats = seen if flipped is None else [seen, _select(flipped, rows)]
            samples = [clip[t] for t in labelled]
            predictions = _decoder_of(self.head).predict(feats, samples, test_cfg=self.test_cfg)
            fields = None
            if isinstance(predictions, tuple):
                predictions, fields = predictions
            samples = self.add_pred_to_datasample(predictions, fields, samples)
            samples[0].sparsity = reports[b]
            results += samples
        return results

    def _through_clips(self, images: Tensor, lengths: list[int]) -> tuple[Any, list[Report]]:
        """(B, T, 3, H, W) through the clip form, in chunks of frames."""
        batch, frames = images.shape[:2]
        chunk = self.test_cfg.get("chunk") or frames
        state: NetState | None = None
        outputs, reports = [], [Report()] * batch
        for start in range(0, frames, chunk):
            part = images[:, start : start + chunk]
            real = [min(max(n - start, 0), part.shape[1]) for n in lengths]
            with clips(
                part.shape[1],
                # A clip that ended before this chunk is all padding, and counts nothing.
                real,
                cut=self.test_cfg.get("cut"),
                refresh_every=self.test_cfg.get("refresh_every"),
                state=state,
                keep_state=start + chunk < frames,
            ) as run:
                run.expect(self)
                output = self._forward(part.flatten(0, 1))
            outputs.append(_map(lambda x, n=part.shape[1]: x.unflatten(0, (-1, n)), output))
            reports = [a + b for a, b in zip(reports, run.clip_reports(self), strict=True)]
            state = run.state if start + chunk < frames else None
        return _map(lambda *xs: torch.cat(xs, 1).flatten(0, 1), *outputs), reports

    def _through_stream(self, images: Tensor, lengths: list[int]) -> tuple[Any, list[Report]]:
        """(B, T, 3, H, W) one frame at a time; each clip is a stream of its own."""
        net = _Heatmaps(self)
        outputs, reports = [], []
        for clip, length in zip(images, lengths, strict=True):
            stream = Stream(
                net,
                cut=self.test_cfg.get("cut"),
                refresh_every=self.test_cfg.get("refresh_every"),
            )
            frames = [stream(clip[t : t + 1]) for t in range(length)]
            frames += frames[-1:] * (len(clip) - length)
            outputs += frames
            reports.append(stream.report())
        return _map(lambda *xs: torch.cat(xs, 0), *outputs), reports

    def _first_frames(self, images: Tensor, lengths: list[int]) -> tuple[Any, list[Report]]:
        """(B, T, 3, H, W): the output of each clip's first frame, T times."""
        output, reports = self._through_clips(images[:, :1], [1] * len(lengths))
        repeated = _map(lambda x: x.repeat_interleave(images.shape[1], 0), output)
        held = [replace(r, frames=n - 1) for r, n in zip(reports, lengths, strict=True)]
        return repeated, held


class _Heatmaps(nn.Module):
    """An estimator's network, images to the head's output, as a module that a stream can run.

    The layers keep the names that they have in the estimator.
    """

    def __init__(self, estimator: SkipTopdownPoseEstimator) -> None:
        super().__init__()
        for name in ("backbone", "neck", "head"):
            if getattr(estimator, name, None) is not None:
                setattr(self, name, getattr(estimator, name))
        self._run = partial(type(estimator)._forward, estimator)
        self.training = estimator.training

    def forward(self, images: Tensor) -> Any:
        return self._run(images)


def _by_clip(data_samples: Sequence[Any] | None) -> list[list[Any]] | None:
    """The samples as B lists, or None if they are not nested by clip."""
    if not data_samples or not isinstance(data_samples[0], list | tuple):
        return None
    return [list(clip) for clip in data_samples]


def _decoder_of(head: nn.Module) -> Any:
    """The head without its network: its losses and decoding, applied to outputs that are there.

    Every head of mmpose starts ``loss`` and ``predict`` with its own ``forward``; the network has
    already run, on all frames of the clips, of which only some are wanted.
    """
    view = copy.copy(head)
    view.forward = lambda outputs: outputs
    return view


def _map(function: Callable[..., Any], *outputs: Any) -> Any:
    """Applies a function to tensors that correspond within tuples or lists of outputs."""
    if isinstance(outputs[0], Tensor):
        return function(*outputs)
    return tuple(_map(function, *parts) for parts in zip(*outputs, strict=True))


def _distance(outputs: Any, targets: Any, lengths: list[int]) -> Tensor:
    """The mean square of what B clips differ by after their first frame, padding left out."""
    if not isinstance(outputs, Tensor):
        parts = [_distance(a, b, lengths) for a, b in zip(outputs, targets, strict=True)]
        return torch.stack(parts).mean()
    square = (outputs.float() - targets.float()).square().flatten(1).mean(1)
    square = square.unflatten(0, (len(lengths), -1))
    skipped = [clip[1:length] for clip, length in zip(square, lengths, strict=True)]
    return torch.cat(skipped).sum() / max(1, sum(len(frames) for frames in skipped))


def _select(outputs: Any, rows: Tensor) -> Any:
    return _map(lambda x: x[rows], outputs)
