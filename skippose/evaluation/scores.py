"""PCK from counts per clip and joint, so that any choice of clips and joints can be scored."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mmengine.structures import BaseDataElement
from mmpose.evaluation.functional import keypoint_pck_accuracy
from mmpose.evaluation.metrics import JhmdbPCKAccuracy


class Metric(NamedTuple):
    """One PCK: its normalisation, its threshold, and whether it looks at the clips' ends only."""

    name: str
    norm: str
    threshold: float
    late: bool = False


METRICS = (
    Metric("PCK@0.2", "bbox_size", 0.2),
    Metric("PCK@0.1", "bbox_size", 0.1),
    Metric("tPCK@0.2", "torso_size", 0.2),
    Metric("tPCK@0.1", "torso_size", 0.1),
    Metric("late PCK@0.2", "bbox_size", 0.2, late=True),
    Metric("late PCK@0.1", "bbox_size", 0.1, late=True),
)
"""``late``: over the last quarter of each clip's frames, where drift would show."""


@dataclass(frozen=True)
class Scores:
    """Joints found and joints there, over C clips, the M metrics and J joints.

    Attributes:
        correct: (C, M, J) joints within the threshold, over the clip's frames.
        valid: (C, M, J) joints that are labelled.
    """

    correct: np.ndarray
    valid: np.ndarray

    def pck(
        self, metric: int, weights: np.ndarray | None = None, joints: Sequence[int] | None = None
    ) -> np.ndarray:
        """The mean over joints of the share found: mmpose's PCK, from counts.

        Args:
            metric: index into `METRICS`.
            weights: (R, C) how often each clip counts; once each by default.
            joints: which joints; all by default.

        Returns:
            (R,), or (1,) without weights. NaN where no joint is labelled.
        """
        chosen = slice(None) if joints is None else list(joints)
        if weights is None:
            weights = np.ones((1, len(self.correct)), np.int64)
        found = weights @ self.correct[:, metric, chosen]
        there = weights @ self.valid[:, metric, chosen]
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a mean over no joint is NaN
            return np.nanmean(found / there, axis=1)

    def of(self, clips: Sequence[int]) -> Scores:
        """The scores of some clips only."""
        return Scores(self.correct[list(clips)], self.valid[list(clips)])


def clip_scores(predictions: Sequence[BaseDataElement]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of one clip: (M, J) correct and (M, J) valid, by mmpose's own PCK.

    Args:
        predictions: the clip's samples with ``pred_instances`` and ``gt_instances``, in order.
    """
    metric = JhmdbPCKAccuracy(norm_item=["bbox", "torso"], prefix="clip")
    metric.process([], [sample.to_dict() for sample in predictions])
    frames = {
        key: np.concatenate([result[key] for result in metric.results])
        for key in ("pred_coords", "gt_coords", "mask", "bbox_size", "torso_size")
    }
    start = 3 * len(predictions) // 4
    correct, valid = [], []
    for _, norm, threshold, late in METRICS:
        part = {key: value[start if late else 0 :] for key, value in frames.items()}
        size = part[norm].astype(np.float64)
        there = (part["mask"] & (size > 0).all(1)[:, None]).sum(0)
        accuracy, _, _ = keypoint_pck_accuracy(
            part["pred_coords"], part["gt_coords"], part["mask"], threshold, part[norm].copy()
        )
        # -1 where no such joint is labelled.
        correct.append(np.round(np.maximum(accuracy, 0) * there).astype(np.int64))
        valid.append(there.astype(np.int64))
    return np.stack(correct), np.stack(valid)
