"""Clips to the flat batch of frames that a network sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from mmpose.models.data_preprocessors import PoseDataPreprocessor
from mmpose.registry import MODELS


@MODELS.register_module()
class ClipPoseDataPreprocessor(PoseDataPreprocessor):
    """Normalises clips and puts their frames into one batch.

    Clips come in as tensors ``(T_i, 3, H, W)``, one per clip and of any lengths, and leave as one
    ``(B * T, 3, H, W)``, T the longest: frame t of clip b is row ``b * T + t``. A shorter clip is
    padded with its last frame, after normalisation. The samples leave as a list of B lists that
    hold the real frames only, so the padding can be told: T is ``rows // B`` and clip b has
    ``len(data_samples[b])`` real frames.

    Each frame goes through `PoseDataPreprocessor` as an image would (which, given a clip, would
    swap the first three *frames* where it means colours). A batch of images is left to it as it is.

    Args:
        **kwargs: As of `PoseDataPreprocessor`. ``batch_augments`` work on images only: they
            resize a batch without its targets.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Returns ``inputs`` and ``data_samples`` as the class describes.

        Args:
            data: ``inputs``: B clips ``(T_i, 3, H, W)`` as a list, or ``(B, T, 3, H, W)``;
                ``data_samples``: for each clip its T_i samples, or None. Samples as mmengine's
                collate functions turn them around (T lists of B) are turned back.
            training: Whether this is a training step.

        Raises:
            ValueError: Clips and images in one batch; a clip without frames or without 3 channels;
                samples that do not match the frames; no samples with clips of different lengths;
                ``batch_augments`` in training.
        """
        inputs = data["inputs"]
        dims = {tensor.dim() for tensor in inputs} if _is_list(inputs) else {inputs.dim() - 1}
        if 4 not in dims:
            return super().forward(data, training)
        if dims != {4}:
            raise ValueError(
                "a batch must hold clips (T, 3, H, W) or images (3, H, W), found both: "
                f"{[tuple(tensor.shape) for tensor in inputs]}"
            )
        for tensor in inputs:
            if len(tensor) < 1 or tensor.shape[1] != 3:
                raise ValueError(
                    f"a clip must have the shape (T, 3, H, W) with T >= 1, found "
                    f"{tuple(tensor.shape)}"
                )
        augments = getattr(self, "batch_augments", None)  # mmpose 1.1 knows none
        if training and augments is not None:
            raise ValueError(
                f"batch_augments do not work on clips, found {list(augments)}: augment "
                "in the data set's pipeline, which draws once for a clip"
            )
        lengths = [len(tensor) for tensor in inputs]
        samples = _samples_by_clip(data.get("data_samples"), lengths)
        # One transfer per clip; the frames are views of it.
        clips = self.cast_data(list(inputs))
        flat = dict(
            inputs=[frame for clip in clips for frame in clip.unbind()],
            data_samples=[sample for group in samples or () for sample in group],
        )
        out = super().forward(flat, training)
        batch = out["inputs"]
        if samples is not None:  # the base class has made new ones
            remaining = iter(out["data_samples"])
            samples = [list(islice(remaining, length)) for length in lengths]
        if len(set(lengths)) > 1:
            rows, start = [], 0
            for length in lengths:
                steps = torch.arange(max(lengths), dtype=torch.long, device="cpu")
                rows.append(start + steps.clamp(max=length - 1))
                start += length
            batch = batch[torch.cat(rows).to(batch.device)]
        return dict(inputs=batch, data_samples=samples)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence)


def _samples_by_clip(samples: Any, lengths: list[int]) -> list[list] | None:
    """Returns B lists of samples, whichever way round they were collated; None for None.

    Raises:
        ValueError: The samples do not match the clips' lengths.
    """
    if samples is None:
        if len(set(lengths)) > 1:
            raise ValueError(
                f"clips of {lengths} frames need data_samples, which tell their lengths"
            )
        return None
    if not all(isinstance(group, Iterable) for group in samples):
        raise ValueError(
            f"{len(lengths)} clips need a list of samples each, found a flat list of {len(samples)}"
        )
    groups = [list(group) for group in samples]
    turned = [list(group) for group in zip(*groups, strict=False)]
    direct = [len(group) for group in groups] == lengths
    transposed = (
        len(groups) == max(lengths)
        and {len(group) for group in groups} == {len(lengths)}
        and len(set(lengths)) == 1
    )
    if direct and transposed:  # as many clips as frames: only the samples themselves can tell
        return turned if _one_clip_each(turned) and not _one_clip_each(groups) else groups
    if direct:
        return groups
    if transposed:
        return turned
    raise ValueError(
        f"clips of {lengths} frames need as many samples, found lists of "
        f"{[len(group) for group in groups]}"
    )


def _one_clip_each(groups: list[list]) -> bool:
    """Whether every group is one clip's frames in order, by what the samples say."""
    for group in groups:
        names = {getattr(sample, "clip_id", None) for sample in group}
        frames = [getattr(sample, "frame", -1) for sample in group]
        if len(names) > 1 or frames != sorted(set(frames)):
            return False
    return True
