"""PCKh for data sets that annotate the head's ends, as PoseTrack does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmpose.evaluation.metrics import PCKAccuracy
from mmpose.registry import METRICS


@METRICS.register_module()
class HeadPCKAccuracy(PCKAccuracy):
    """Share of joints whose error is below ``thr`` head lengths; mmpose's ``PCKh``.

    The norm is the distance in pixels between the ground truth's ``head_bottom`` and ``head_top``
    (MPII's and poseval's own is 0.6 of the diagonal of an annotated head *box*, which is not in
    every file: the two values are not to be compared). A person-frame whose head is not annotated
    at both ends has no norm and is left out. As in mmpose, the value is the mean over joints of the
    joints' own shares, ``keypoint_pck_accuracy``.

    Args:
        thr: Error that still counts, in head lengths.
        head: The names of the two joints.
        collect_device: see mmengine.
        prefix: see mmengine.

    Where no person-frame has a norm (detections come without ground truth) there is no value, and a
    warning says so.

    Raises:
        ValueError: The data set has no such joints.
    """

    def __init__(
        self,
        thr: float = 0.5,
        head: tuple[str, str] = ("head_bottom", "head_top"),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(thr=thr, norm_item="head", collect_device=collect_device, prefix=prefix)
        self.head = tuple(head)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Takes the joints of each sample, with the length of its head."""
        names = (self.dataset_meta or {}).get("keypoint_name2id", {})
        missing = [name for name in self.head if name not in names]
        if missing:
            raise ValueError(
                f"{type(self).__name__}: the data set has no joints {missing}; it has "
                f"{sorted(names)}"
            )
        ends = [names[name] for name in self.head]
        samples = []
        for sample in data_samples:
            gt = sample["gt_instances"]
            joints = np.asarray(gt["keypoints"])[0, ends]
            visible = np.asarray(gt["keypoints_visible"]).reshape(1, len(names), -1)[0, ends, 0]
            length = float(np.linalg.norm(joints[0] - joints[1])) if visible.all() else 0.0
            samples.append({**sample, "gt_instances": {**gt, "head_size": length}})
        super().process(data_batch, samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """``PCKh`` over all person-frames that have a norm; nothing if none has."""
        if not any((result["head_size"] > 0).all() for result in results):
            print_log(
                f"{type(self).__name__} gives no value: none of {len(results)} person-frames has "
                f"both {' and '.join(self.head)} annotated (detections come without ground truth)",
                logger="current",
                level=logging.WARNING,
            )
            return {}
        return super().compute_metrics(results)
