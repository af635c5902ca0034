"""PCK from counts equals mmpose's, whichever clips and joints are asked for."""

import numpy as np
import pytest

pytest.importorskip("mmpose")

from mmengine.structures import InstanceData
from mmpose.evaluation.functional import keypoint_pck_accuracy
from mmpose.evaluation.metrics import JhmdbPCKAccuracy
from mmpose.structures import PoseDataSample

from skippose.evaluation.scores import METRICS, Scores, clip_scores


def clip(rng: np.random.Generator, frames: int) -> list[PoseDataSample]:
    samples = []
    for _ in range(frames):
        truth = rng.uniform(0, 100, (1, 15, 2)).astype(np.float32)
        sample = PoseDataSample()
        sample.gt_instances = InstanceData(
            keypoints=truth,
            keypoints_visible=(rng.random((1, 15)) < 0.8).astype(np.float32),
            bboxes=np.array([[0, 0, rng.uniform(40, 90), 100]], np.float32),
        )
        found = truth + rng.normal(0, 12, truth.shape)
        sample.pred_instances = InstanceData(keypoints=found.astype(np.float32))
        samples.append(sample)
    return samples


@pytest.fixture
def clips() -> list[list[PoseDataSample]]:
    rng = np.random.default_rng(0)
    return [clip(rng, frames) for frames in (9, 4, 1)]


def scores_of(clips: list[list[PoseDataSample]]) -> Scores:
    correct, valid = zip(*map(clip_scores, clips), strict=True)
    return Scores(np.stack(correct), np.stack(valid))


@pytest.mark.parametrize("index", range(4))
def test_equals_mmpose_to_the_digit(clips, index):
    name, norm, threshold, _ = METRICS[index]
    metric = JhmdbPCKAccuracy(
        thr=threshold, norm_item="bbox" if norm == "bbox_size" else "torso", prefix="x"
    )
    for samples in clips:
        metric.process([], [sample.to_dict() for sample in samples])
    expected = metric.compute_metrics(metric.results)["tPCK" if name[0] == "t" else "PCK"]
    assert scores_of(clips).pck(index)[0] == expected


def test_some_joints_only(clips):
    joints = [0, 3, 14]
    flat = [sample for samples in clips for sample in samples]
    size = np.array([[np.ptp(s.gt_instances.bboxes[0].reshape(2, 2), 0).max()] * 2 for s in flat])
    _, expected, _ = keypoint_pck_accuracy(
        np.concatenate([s.pred_instances.keypoints for s in flat])[:, joints],
        np.concatenate([s.gt_instances.keypoints for s in flat])[:, joints],
        np.concatenate([s.gt_instances.keypoints_visible for s in flat])[:, joints] > 0,
        0.2,
        size,
    )
    assert scores_of(clips).pck(0, joints=joints)[0] == expected


def test_a_weight_counts_a_clip_so_often(clips):
    weights = np.array([[2, 0, 1], [1, 1, 1]])
    drawn = scores_of(clips).pck(1, weights)
    assert drawn[0] == scores_of([clips[0], clips[0], clips[2]]).pck(1)[0]
    assert drawn[1] == scores_of(clips).pck(1)[0]
    assert scores_of(clips).of([2]).pck(1)[0] == scores_of(clips[2:]).pck(1)[0]


def test_late_is_the_last_quarter(clips):
    late = [n for n, metric in enumerate(METRICS) if metric.late]
    ends = scores_of([clips[0][6:], clips[1][3:], clips[2]])
    for n in late:
        plain = next(k for k, m in enumerate(METRICS) if m.name == METRICS[n].name.split()[1])
        assert scores_of(clips).pck(n)[0] == ends.pck(plain)[0]
