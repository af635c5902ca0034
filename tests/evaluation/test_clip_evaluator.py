"""ClipEvaluator: every metric sees every frame exactly once, on one process and on two."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmpose")

from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmpose.evaluation.metrics import JhmdbPCKAccuracy
from mmpose.structures import PoseDataSample
from torch.utils.data import Dataset

from skippose.evaluation.clip_evaluator import ClipEvaluator

# Frames of each clip: odd numbers of clips and of frames, so that neither divides by two ranks,
# and a clip of one frame at the end.
LENGTHS = (7, 3, 6, 4, 1)
PCK = dict(type="JhmdbPCKAccuracy", thr=0.2, norm_item=["bbox", "torso"])


def frame(clip: int, index: int, **meta) -> PoseDataSample:
    """A labelled frame whose prediction is wrong in a way that differs from frame to frame."""
    rng = np.random.default_rng([clip, index])
    truth = rng.uniform(0, 100, (1, 15, 2)).astype(np.float32)
    # Longer clips are predicted worse, so that a metric of some of the frames differs.
    error = rng.normal(0, 3.0 * LENGTHS[clip], truth.shape).astype(np.float32)
    sample = PoseDataSample(
        metainfo=dict(clip_id=f"clip{clip}", frame=index, img_id=100 * clip + index, id=index)
        | meta
    )
    sample.gt_instances = InstanceData(
        keypoints=truth,
        keypoints_visible=np.ones((1, 15), np.float32),
        bboxes=np.array([[0, 0, 90, 60]], np.float32),
        head_size=np.ones((1, 1), np.float32),
    )
    sample.pred_instances = InstanceData(
        keypoints=truth + error, keypoint_scores=np.ones((1, 15), np.float32)
    )
    return sample


def clip(index: int) -> list[PoseDataSample]:
    return [frame(index, t) for t in range(LENGTHS[index])]


def all_frames() -> list[PoseDataSample]:
    return [sample for index in range(len(LENGTHS)) for sample in clip(index)]


def pck_by_hand(samples: list[PoseDataSample], thr: float = 0.2) -> float:
    """PCK normalised by the box's longer side: mean over joints of the share within the threshold.

    Written from the definition, not with mmpose's functions.
    """
    hits = []
    for sample in samples:
        gt, pred = sample.gt_instances, sample.pred_instances
        x0, y0, x1, y1 = gt.bboxes[0]
        distance = np.linalg.norm(pred.keypoints[0] - gt.keypoints[0], axis=-1)
        hits.append(distance < thr * max(x1 - x0, y1 - y0))
    return float(np.mean(hits))


class PerClip(BaseMetric):
    """Has one result per clip, as a sparsity record is."""

    default_prefix = "clip"

    def process(self, data_batch, data_samples):
        self.results.append((data_samples[0]["clip_id"], len(data_samples)))

    def compute_metrics(self, results):
        self.seen = list(results)
        return {"clips": len(results), "frames": sum(n for _, n in results)}


class FirstOfClip(BaseMetric):
    """One result per frame, None but for a clip's first, as SparsityMetric's are."""

    default_prefix = "first"

    def process(self, data_batch, data_samples):
        self.results += [s["clip_id"] if s["frame"] == 0 else None for s in data_samples]

    def compute_metrics(self, results):
        return {"clips": sum(result is not None for result in results)}


class Wrapping(BaseMetric):
    """Keeps its results in another metric, as mmpose's KeypointPartitionMetric does."""

    def __init__(self):
        super().__init__()
        self.inner = PerClip(prefix="inner")

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.inner.process(data_batch, [sample])

    def compute_metrics(self, results):
        raise NotImplementedError

    def evaluate(self, size):
        return self.inner.evaluate(size)


def test_every_frame_counts_whatever_the_length_of_the_data_set():
    truth = pck_by_hand(all_frames())
    evaluator = ClipEvaluator([JhmdbPCKAccuracy(thr=0.2, norm_item=["bbox", "torso"]), PerClip()])
    for epoch in range(2):  # what an epoch leaves behind must not reach the next
        evaluator.process(clip(0) + clip(1))
        evaluator.process(clip(2) + clip(3))
        evaluator.process(clip(4))
        values = evaluator.evaluate(len(LENGTHS))
        assert values["PCK"] == pytest.approx(truth, abs=1e-6), epoch
        assert values["clip/clips"] == len(LENGTHS)
        assert values["clip/frames"] == sum(LENGTHS)
        assert "tPCK" in values

    # The trap: mmengine's own evaluator takes the first five frames for the whole.
    plain = Evaluator([JhmdbPCKAccuracy(thr=0.2)])
    plain.process(all_frames())
    assert plain.evaluate(len(LENGTHS))["PCK"] == pytest.approx(pck_by_hand(all_frames()[:5]))
    assert abs(pck_by_hand(all_frames()[:5]) - truth) > 0.02


def test_repeated_clips_count_once():
    metric = PerClip()
    evaluator = ClipEvaluator([metric])
    evaluator.process(clip(1) + clip(1))  # twice in one batch, next to each other
    evaluator.process(clip(4) + clip(4))  # also a clip of one frame
    evaluator.process(clip(1))
    assert evaluator.evaluate(5) == {"clip/clips": 2, "clip/frames": 4}
    assert metric.seen == [("clip1", 3), ("clip4", 1)]


def test_two_people_in_the_same_images_are_two_clips():
    evaluator = ClipEvaluator([PerClip()])
    for person in range(2):
        samples = [frame(0, t, clip_id=f"video/{person}", id=10 * person + t) for t in range(3)]
        evaluator.process(samples)
    assert evaluator.evaluate(2) == {"clip/clips": 2, "clip/frames": 6}


def test_single_images_of_an_ordinary_data_set():
    samples = []
    for sample in all_frames():
        plain = frame(int(sample.clip_id[-1]), sample.frame)
        for key in ("clip_id", "frame"):
            plain.pop(key)
        samples.append(plain)
    evaluator = ClipEvaluator([JhmdbPCKAccuracy(thr=0.2)])
    evaluator.process(samples)
    evaluator.process(samples[:3])
    assert evaluator.evaluate(1)["PCK"] == pytest.approx(pck_by_hand(all_frames()), abs=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_offline_evaluation_of_dumped_predictions(chunk_size):
    dumped = [sample.to_dict() for sample in all_frames()]
    evaluator = ClipEvaluator([JhmdbPCKAccuracy(thr=0.2)])
    values = evaluator.offline_evaluate(dumped, chunk_size=chunk_size)
    assert values["PCK"] == pytest.approx(pck_by_hand(all_frames()), abs=1e-6)


def test_a_metric_that_wraps_another_gets_the_number_of_frames():
    evaluator = ClipEvaluator([Wrapping()])
    for index in range(len(LENGTHS)):
        evaluator.process(clip(index))
    assert evaluator.evaluate(len(LENGTHS))["inner/frames"] == sum(LENGTHS)


def test_two_metrics_of_one_name_are_refused():
    evaluator = ClipEvaluator([PerClip(), PerClip()])
    evaluator.process(clip(0))
    with pytest.raises(ValueError, match=r"clip/clips.*prefix"):
        evaluator.evaluate(1)


class Clips(Dataset):
    METAINFO = dict(dataset_name="toy")
    metainfo = METAINFO

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(LENGTHS[index], 3, 2, 2), data_samples=clip(index))


class Echo(BaseModel):
    """Returns the samples that it is given, flat."""

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return [sample for samples in data_samples for sample in samples]


def runner(tmp_path, **kwargs) -> Runner:
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=Clips(),
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=lambda batch: {key: [item[key] for item in batch] for key in batch[0]},
    )
    return Runner(
        model=Echo(),
        work_dir=str(tmp_path),
        default_scope="mmpose",
        experiment_name=tmp_path.name,
        **{f"{kwargs.pop('phase')}_dataloader": loader},
        **kwargs,
    )


def test_in_the_validation_loop_of_a_runner(tmp_path):
    evaluator = dict(type="ClipEvaluator", metrics=[PCK])
    values = runner(tmp_path, phase="val", val_cfg=dict(), val_evaluator=evaluator).val()
    assert values["PCK"] == pytest.approx(pck_by_hand(all_frames()), abs=1e-6)


def test_dump_option_of_mmpose_writes_every_frame(tmp_path):
    """mmpose's tools/test.py --dump makes a list of the evaluator and DumpResults."""
    out = tmp_path / "out.pkl"
    evaluator = [
        dict(type="ClipEvaluator", metrics=[PCK]),
        dict(type="DumpResults", out_file_path=str(out)),
    ]
    cfg = dict(type="ClipTestLoop")
    values = runner(tmp_path, phase="test", test_cfg=cfg, test_evaluator=evaluator).test()
    assert values["PCK"] == pytest.approx(pck_by_hand(all_frames()), abs=1e-6)
    dumped = pickle.loads(out.read_bytes())
    assert [(s["clip_id"], s["frame"]) for s in dumped] == [
        (s.clip_id, s.frame) for s in all_frames()
    ]


RANK = """
import importlib.util, json, os, sys
import torch.distributed as dist
from mmengine.dataset import DefaultSampler

test_file, rank, store, device = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
spec = importlib.util.spec_from_file_location("helpers", test_file)
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
from mmengine.evaluator import DumpResults
from skippose.evaluation.clip_evaluator import ClipEvaluator

values = {}
for round_up in (True, False):
    metrics = [
        helpers.JhmdbPCKAccuracy(thr=0.2, collect_device=device),
        helpers.PerClip(collect_device=device),
        helpers.FirstOfClip(collect_device=device),
        DumpResults(f"dump_{round_up}.pkl", collect_device=device),
    ]
    evaluator = ClipEvaluator(metrics)
    data = helpers.Clips()
    mine = list(DefaultSampler(data, shuffle=False, round_up=round_up))
    for start in range(0, len(mine), 2):
        batch = [helpers.clip(i) for i in mine[start : start + 2]]
        evaluator.process([sample for samples in batch for sample in samples])
    values[str(round_up)] = {"mine": mine, **evaluator.evaluate(len(data))}
with open(f"values_{rank}.json", "w") as file:
    json.dump(values, file, default=float)
# Taking gloo down deadlocks now and then in torch 2.1.2: it joins a thread that waits for the GIL.
os._exit(0)
"""


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_two_processes_give_what_one_gives(tmp_path, device):
    """Padded by the sampler or not, with either way that mmengine has to collect results."""
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                RANK,
                __file__,
                str(rank),
                f"{tmp_path}/store",
                device,
            ],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=600)[1] for process in ranks]
    assert all(process.returncode == 0 for process in ranks), "\n".join(errors)

    expected = [(s.clip_id, s.frame) for s in all_frames()]
    both = [json.loads((tmp_path / f"values_{rank}.json").read_text()) for rank in range(2)]
    for round_up in ("True", "False"):
        mine = [values[round_up].pop("mine") for values in both]
        assert mine == ([[0, 2, 4], [1, 3, 0]] if round_up == "True" else [[0, 2, 4], [1, 3]])
        assert both[0][round_up] == both[1][round_up]
        values = both[0][round_up]
        assert values["PCK"] == pytest.approx(pck_by_hand(all_frames()), abs=1e-6)
        assert values["clip/clips"] == len(LENGTHS)
        assert values["clip/frames"] == sum(LENGTHS)
        assert values["first/clips"] == len(LENGTHS)
        dumped = pickle.loads((tmp_path / f"dump_{round_up}.pkl").read_bytes())
        assert [(s["clip_id"], s["frame"]) for s in dumped] == expected
