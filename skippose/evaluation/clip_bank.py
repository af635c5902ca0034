"""Clips that are read and cropped once and then seen by many networks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.fileio import exists, get
from mmpose.registry import DATASETS, MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor

from skippose.datasets import ClipDataset
from skippose.models import SkipTopdownPoseEstimator

CAMERAS = ("still", "moving")
STILL_FLOW = 0.1
"""Pixels a frame below which a background is still; see :func:`background_flow`."""


@dataclass(frozen=True)
class LoadedClip:
    """One whole clip of one person, as a data loader would hand it over.

    Attributes:
        clip_id: ``<video directory>#<track id>``.
        inputs: (T, 3, H, W) uint8.
        samples: one for each frame.
    """

    clip_id: str
    inputs: Tensor
    samples: list[PoseDataSample]

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def batch(self) -> dict[str, Any]:
        """What ``test_step`` of an estimator takes."""
        return dict(inputs=[self.inputs], data_samples=[self.samples])


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Whether a config describes what runs over clips.

    Raises:
        ValueError: if its network takes no clips or its test data are none; ``name`` is in the
            message.
    """
    model = config.get("model", {}).get("type")
    data = config.get("test_dataloader", {}).get("dataset", {}).get("type")
    for registry, kind, base in (
        (MODELS, model, SkipTopdownPoseEstimator),
        (DATASETS, data, ClipDataset),
    ):
        found = registry.get(kind) if isinstance(kind, str) else kind
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ValueError(
                f"{name}: found {model} and test data in {data}; expected a gated network "
                "(SkipTopdownPoseEstimator) on a ClipDataset"
            )


def build_dataset(config: Mapping[str, Any], crop: str | None = None) -> Any:
    """The data set of a config's ``test_dataloader``, with another crop if one is given.

    Raises:
        ValueError: if it is no data set of whole clips.
    """
    config = dict(deepcopy(config))
    if crop is not None:
        config["crop"] = crop
    dataset = DATASETS.build(config)
    if not (hasattr(dataset, "crop") and dataset.test_mode):
        raise ValueError(
            f"expected a ClipDataset with test_mode=True, found {type(dataset).__name__} with "
            f"test_mode={getattr(dataset, 'test_mode', None)}"
        )
    return dataset


def load_clips(
    dataset: Any, count: int | None = None, on_clip: Callable[[], None] = lambda: None
) -> list[LoadedClip]:
    """All clips of a data set, or ``count`` of them at even distances.

    Args:
        dataset: a ``ClipDataset`` with ``test_mode=True``.
        count: how many; all if there are fewer.
        on_clip: called after each.

    Raises:
        FrameError: a frame cannot be used.
    """
    clips = []
    for index in spread(len(dataset), count):
        item = dataset[index]
        samples = list(item["data_samples"])
        clips.append(LoadedClip(samples[0].clip_id, item["inputs"], samples))
        on_clip()
    return clips


def spread(total: int, count: int | None) -> list[int]:
    """``count`` of ``range(total)`` at even distances, all of them for None."""
    if count is not None and count < 1:
        raise ValueError(f"the number of clips must be at least 1, got {count}")
    if count is None or count >= total:
        return list(range(total))
    return [(2 * n + 1) * total // (2 * count) for n in range(count)]


def data_identity(config: Mapping[str, Any], count: int | None = None) -> str:
    """A digest of what clips a data set's config gives, wherever its files lie.

    Covers the annotation file's content and every setting but the data root; not the images.
    """
    outer = deepcopy(dict(config))
    inner = dict(outer.pop("dataset"))
    root = inner.pop("data_root", "") or ""
    file = inner["ann_file"]
    path = file if file.startswith("/") or not root else f"{root.rstrip('/')}/{file}"
    if not exists(path):
        build_dataset(config)  # raises, and says how the data is made
    digest = hashlib.sha256(get(path))
    digest.update(json.dumps([outer, inner, count], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:12]


def camera_of(clip: LoadedClip) -> str:
    """Whether a clip's camera is ``'still'`` or ``'moving'``.

    JHMDB says it in the clip's name (``_nm_``, ``_cm_``). For others it is measured on the frames
    as they are on disk: still, if the median :func:`background_flow` is below ``STILL_FLOW``. Of
    37 real JHMDB clips the measure agrees with the name for 35; two that are called moving hardly
    move.
    """
    named = re.search(r"_([nc])m_", clip.clip_id)
    if named:
        return "still" if named[1] == "n" else "moving"
    frames: dict[
        str, tuple[np.ndarray, np.ndarray]
    ] = {}  # a clip that is played twice is read once
    for sample in clip.samples:
        if sample.img_path not in frames:
            image = np.asarray(cv2.imread(sample.img_path, cv2.IMREAD_GRAYSCALE), np.float32)
            frames[sample.img_path] = (image, sample.gt_instances.bboxes[0])
    seen = list(frames.values())
    flows = [
        background_flow(a, b, np.stack([p, q]))
        for (a, p), (b, q) in zip(seen[:-1], seen[1:], strict=True)
    ]
    return "still" if not flows or np.median(flows) < STILL_FLOW else "moving"


def background_flow(before: np.ndarray, after: np.ndarray, boxes: np.ndarray) -> float:
    """Pixels by which the background moves from one frame to the next.

    The one translation that explains the brightness change outside the boxes best (least squares on
    the optical flow equation: Lucas and Kanade, IJCAI 1981, with the background as the window).

    Args:
        before: (H, W) float32 grey levels.
        after: the same, one frame later.
        boxes: (N, 4) ``x1, y1, x2, y2``: the person in both frames.
    """
    outside = np.ones(before.shape, bool)
    for x0, y0, x1, y1 in np.round(boxes).astype(int):
        outside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = False
    slope = np.stack([cv2.Sobel(before, cv2.CV_32F, *d, scale=1 / 8)[outside] for d in _AXES])
    change = (after - before)[outside]
    # A little of the identity: a frame without texture does not move.
    matrix = slope.astype(np.float64) @ slope.T + 1e-3 * np.eye(2)
    return float(np.linalg.norm(np.linalg.solve(matrix, slope @ change)))


_AXES = ((1, 0), (0, 1))


def file_digest(path: str) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(get(path)).hexdigest()


def set_threads(threads: int | None) -> None:
    """Threads of torch in this process; None leaves torch's own choice."""
    if threads is not None:
        torch.set_num_threads(threads)
