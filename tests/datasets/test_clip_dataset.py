"""ClipDataset: items, labels, rules for bad input, and mmengine's loaders."""

import json
import logging
import os
import pickle
import random
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.runner import Runner
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.datasets.transforms import PhotometricDistortion
from mmpose.registry import DATASETS

from skippose.datasets import ClipDataset, FrameError
from skippose.datasets.clip_dataset import EpochIndex
from skippose.models.data_preprocessors import ClipPoseDataPreprocessor

DATA = Path(
    os.environ.get("SKIPPOSE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")
)
PLAIN = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="TopdownAffine", input_size=(48, 64)),
    dict(
        type="GenerateTarget",
        encoder=dict(type="MSRAHeatmap", input_size=(48, 64), heatmap_size=(12, 16), sigma=1),
    ),
    dict(type="PackPoseInputs"),
]


def test_testing_gives_whole_clips_and_training_windows(root):
    root.add("run/a", 11)
    root.add("run/b", 3)
    config = root.write()
    test = ClipDataset(config, clip_len=4, pipeline=PLAIN, test_mode=True)
    assert [len(item["data_samples"]) for item in test] == [11, 3]
    train = ClipDataset(config, clip_len=4, stride=2, pipeline=PLAIN)
    seen = [
        (s.clip_id.split("/")[-1], [x.frame for x in item["data_samples"]])
        for item in train
        for s in item["data_samples"][:1]
    ]
    assert seen == [
        ("a#0", [0, 2, 4, 6]),
        ("a#0", [4, 6, 8, 10]),
        ("a#0", [1, 3, 5, 7]),
        ("a#0", [3, 5, 7, 9]),
        ("b#0", [0, 2]),
        ("b#0", [1]),
    ]
    assert len(train) == 6 and len(test) == 2


def centre_of(sample) -> np.ndarray:
    """The crop's centre, which mmpose 1.1 keeps with the instances."""
    found = sample.metainfo.get("input_center")
    return sample.gt_instances.bbox_centers[0] if found is None else found


def test_an_item_is_what_the_interface_says(root):
    root.add("run/a", 3)
    item = ClipDataset(root.write(), pipeline=PLAIN, test_mode=True)[0]
    assert item.keys() == {"inputs", "data_samples"}
    assert item["inputs"].shape == (3, 3, 64, 48) and item["inputs"].dtype == torch.uint8
    for t, sample in enumerate(item["data_samples"]):
        assert (sample.clip_id, sample.frame) == ("Rename_Images/run/a#0", t)
        assert sample.labelled is True
        assert sample.img_path.endswith(f"run/a/{t + 1:05d}.png")
        assert sample.flip_indices[3] == 4
        assert sample.get("dataset_name", "jhmdb") == "jhmdb"  # mmpose 1.1 does not pack it
        assert centre_of(sample).shape == (2,)


@pytest.mark.parametrize("test_mode", [False, True])
def test_per_frame_crops_equal_mmposes_own_data_set(root, test_mode):
    """Pixels, targets, boxes and keypoints: nothing is lost or shifted on the way."""
    root.add("run/a", 5, drift=2)
    root.add("walk/b", 4, drift=1)
    config = root.write()
    single = DATASETS.build(dict(config, pipeline=PLAIN, test_mode=test_mode))
    singles = {sample["data_samples"].img_id: sample for sample in single}
    clips = ClipDataset(config, clip_len=3, crop="frame", pipeline=PLAIN, test_mode=test_mode)
    compared = set()
    for item in clips:
        for image, sample in zip(item["inputs"], item["data_samples"], strict=True):
            other = singles[sample.img_id]
            theirs = other["data_samples"]
            assert torch.equal(image, other["inputs"])
            assert torch.equal(sample.gt_fields.heatmaps, theirs.gt_fields.heatmaps)
            for key in ("keypoints", "keypoints_visible", "bboxes", "bbox_scales"):
                assert np.array_equal(sample.gt_instances[key], theirs.gt_instances[key]), key
            for key in theirs.metainfo:
                assert np.array_equal(sample.metainfo[key], theirs.metainfo[key]), key
            compared.add(sample.img_id)
    assert compared == singles.keys() and len(compared) == 9


def test_a_crop_window_leaves_the_box_to_the_metrics(root):
    root.add("run/a", 6, drift=1)
    config = root.write()
    single = DATASETS.build(dict(config, pipeline=PLAIN, test_mode=True))
    item = ClipDataset(config, pipeline=PLAIN, test_mode=True)[0]
    centres = np.stack([centre_of(s) for s in item["data_samples"]])
    assert (centres == centres[0]).all()
    for sample, other in zip(item["data_samples"], single, strict=True):
        theirs = other["data_samples"].gt_instances
        assert np.array_equal(sample.gt_instances.bboxes, theirs.bboxes)
        assert np.array_equal(sample.gt_instances.keypoints, theirs.keypoints)


def test_crop_modes(root):
    root.add("run/a", 12, drift=3)
    config = root.write()
    moves = {}
    for crop in ("hysteresis", "first", "union", "frame"):
        item = ClipDataset(config, crop=crop, pipeline=PLAIN, test_mode=True)[0]
        centres = np.stack([centre_of(s) for s in item["data_samples"]])
        moves[crop] = int((np.diff(centres, axis=0) != 0).any(1).sum())
    assert moves["first"] == moves["union"] == 0
    assert 1 <= moves["hysteresis"] <= 5
    assert moves["frame"] == 11


def test_the_hysteresis_knows_padding_and_input_size(root):
    root.add("run/a", 2)
    config = root.write()
    dataset = ClipDataset(config, pipeline=PLAIN, crop_cfg=dict(margin=0.5))
    assert dataset._crop_args == dict(aspect_ratio=0.75, padding=1.25, margin=0.5)
    with pytest.raises(ValueError, match="margin .* found 2"):
        ClipDataset(config, pipeline=PLAIN, crop_cfg=dict(margin=2))


def test_meta_information_is_the_wrapped_data_sets(root):
    root.add("run/a", 2)
    config = root.write()
    ours = ClipDataset(config, pipeline=PLAIN).metainfo
    theirs = DATASETS.build(config).metainfo
    assert ours.keys() == theirs.keys() and ours["dataset_name"] == "jhmdb"
    assert ours["flip_indices"] == theirs["flip_indices"]
    assert np.array_equal(ours["sigmas"], theirs["sigmas"])


def test_lazy_init_and_indices(root):
    for name in "abc":
        root.add(f"run/{name}", 2)
    config = root.write()
    lazy = ClipDataset(config, pipeline=PLAIN, test_mode=True, lazy_init=True)
    assert lazy.data_list == [] and lazy.metainfo["dataset_name"] == "jhmdb"
    lazy.full_init()
    assert len(lazy) == 3
    few = ClipDataset(config, pipeline=PLAIN, test_mode=True, indices=[2, 0])
    assert [few[i]["data_samples"][0].clip_id[-3:] for i in range(2)] == ["c#0", "a#0"]


# Unlabelled frames and gaps


def drop_label(root, frame_file: str) -> None:
    image = next(i for i in root.content["images"] if i["file_name"].endswith(frame_file))
    image["is_labeled"] = False
    annotations = root.content["annotations"]
    annotations[:] = [a for a in annotations if a["image_id"] != image["id"]]


def test_unlabelled_frames_are_input_without_loss(root):
    root.add("run/a", 6, drift=1)
    for frame in (1, 4):
        drop_label(root, f"a/{frame:05d}.png")
    item = ClipDataset(root.write(), clip_len=6, crop="frame", pipeline=PLAIN)[0]
    samples = item["data_samples"]
    assert [s.labelled for s in samples] == [False, True, True, False, True, True]
    assert item["inputs"].shape[0] == 6 and item["inputs"].flatten(1).float().std(1).min() > 5
    for sample in samples:
        weights = sample.gt_instance_labels.keypoint_weights
        assert bool(weights.any()) == sample.labelled
        assert bool(sample.gt_fields.heatmaps.any()) == sample.labelled
        assert bool(sample.gt_instances.keypoints_visible.any()) == sample.labelled
    boxes = np.stack([s.gt_instances.bboxes[0] for s in samples])
    assert np.array_equal(boxes[3], boxes[2])  # held from the frame before
    assert np.array_equal(boxes[0], boxes[1])  # nothing before: the first one
    assert [Path(s.img_path).name for s in samples] == [f"{n:05d}.png" for n in range(1, 7)]


@pytest.fixture
def log(monkeypatch) -> list[tuple[int, str]]:
    """What the data set logs, as (level, message)."""
    messages: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "skippose.datasets.clip_dataset.print_log",
        lambda message, logger=None, level=logging.INFO: messages.append((level, message)),
    )
    return messages


def test_windows_without_a_label_are_left_out_of_training_and_counted(root, log):
    root.add("run/a", 8)
    for frame in (5, 6, 7, 8):
        drop_label(root, f"a/{frame:05d}.png")
    config = root.write()
    train = ClipDataset(config, clip_len=4, pipeline=PLAIN)
    assert [[s.frame for s in item["data_samples"]] for item in train] == [[0, 1, 2, 3]]
    assert "8 frames (4 unlabelled); 1 windows without a label left out" in log[-1][1]
    whole = ClipDataset(config, pipeline=PLAIN, test_mode=True)[0]["data_samples"]
    assert [s.labelled for s in whole] == [True] * 4 + [False] * 4


def test_a_gap_in_the_numbers_does_not_divide_a_clip(root, log):
    root.add("run/a", 6)
    root.content["images"] = [i for i in root.content["images"] if i["id"] % 10 != 3]
    root.content["annotations"] = [
        a for a in root.content["annotations"] if a["image_id"] % 10 != 3
    ]
    (item,) = ClipDataset(root.write(), pipeline=PLAIN, test_mode=True)
    assert [Path(s.img_path).stem[-1] for s in item["data_samples"]] == list("12456")
    assert [s.frame for s in item["data_samples"]] == [0, 1, 2, 3, 4]
    warnings = [message for level, message in log if level == logging.WARNING]
    assert len(warnings) == 1 and "1 of 1 clips have gaps" in warnings[0]


# Bad input


@pytest.mark.parametrize("test_mode", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "00003.png: missing"),
        (lambda p: p.write_bytes(p.read_bytes()[:-200]), "00003.png: truncated"),
        (lambda p: p.write_bytes(b""), "00003.png: .*"),
        (
            lambda p: p.write_bytes(b"no image at all"),
            "00003.png: .*(failed to load image|NoneType)",  # the latter by mmpose 1.1
        ),
        (
            lambda p: cv2.imwrite(str(p), np.zeros((8, 9, 3), np.uint8)),
            r"\(height, width\) \(8, 9\), but .*0000\d.png of the same clip has \(72, 96\)|"
            r"\(height, width\) \(72, 96\), but .*00003.png of the same clip has \(8, 9\)",
        ),
    ],
)
def test_a_bad_frame_raises_and_names_the_file(root, test_mode, damage, message):
    root.add("run/a", 5)
    dataset = ClipDataset(root.write(), clip_len=5, pipeline=PLAIN, test_mode=test_mode)
    assert len(dataset[0]["data_samples"]) == 5
    damage(root.path / "Rename_Images" / "run" / "a" / "00003.png")
    with pytest.raises(FrameError, match=message):
        dataset[0]


def test_a_loader_that_ignores_missing_frames_does_not_shorten_a_clip(root):
    root.add("run/a", 3)
    pipeline = [dict(type="LoadImage", ignore_empty=True), *PLAIN[1:]]
    dataset = ClipDataset(root.write(), pipeline=pipeline)
    (root.path / "Rename_Images" / "run" / "a" / "00002.png").write_bytes(b"")
    with pytest.raises(FrameError, match="00002.png"):
        dataset[0]


def test_missing_track_ids_of_two_people(root):
    root.add("run/a", 2)
    twin = dict(root.content["annotations"][0], id=5)
    for annotation in (twin, *root.content["annotations"]):
        del annotation["track_id"]
    root.content["annotations"].append(twin)
    with pytest.raises(ValueError, match=r"Sub1_train.json: .*00001.png: .* has no track_id"):
        ClipDataset(root.write(), pipeline=PLAIN)


def test_a_missing_or_foreign_annotation_file(root):
    root.add("run/a", 2)
    config = root.write()
    path = root.path / "annotations" / "Sub1_train.json"
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="Sub1_train.json: found no 'images'"):
        ClipDataset(config, pipeline=PLAIN)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="Sub1_train.json: missing"):
        ClipDataset(config, pipeline=PLAIN)


@pytest.mark.parametrize(
    ("wrapped", "arguments", "message"),
    [
        ({}, dict(clip_len=0), "clip_len .* found 0"),
        ({}, dict(stride=1.5), "stride .* found 1.5"),
        ({}, dict(crop="follow"), "crop must be one of .* found 'follow'"),
        ({}, dict(pipeline=PLAIN[:1]), "needs GetBBoxCenterScale .* found .'LoadImage'"),
        (dict(pipeline=PLAIN[:1]), {}, "own pipeline must be empty.*LoadImage"),
        (dict(indices=3), {}, "cannot honour indices=3"),
        (dict(filter_cfg=dict(bbox_score_thr=0.3)), {}, "cannot honour filter_cfg"),
        pytest.param(
            dict(sample_interval=2),
            {},
            "cannot honour sample_interval=2",
            marks=pytest.mark.skipif(
                "sample_interval" not in signature(BaseCocoStyleDataset).parameters,
                reason="mmpose 1.1 has no sample_interval",
            ),
        ),
        (dict(data_mode="bottomup"), {}, "cannot honour data_mode='bottomup'"),
        ({}, dict(max_gap=-1), "max_gap .* found -1"),
        ({}, dict(link_iou=0), "link_iou .* found 0"),
    ],
)
def test_bad_arguments(root, wrapped, arguments, message):
    root.add("run/a", 2)
    with pytest.raises(ValueError, match=message):
        ClipDataset({**root.write(), **wrapped}, **{"pipeline": PLAIN, **arguments})


# mmengine's loaders


def loader(root_config: dict, batch_size: int, test_mode: bool, workers: int = 0) -> list:
    config = dict(
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(
            type="ClipDataset",
            dataset=root_config,
            clip_len=4,
            pipeline=PLAIN,
            test_mode=test_mode,
        ),
    )
    return Runner.build_dataloader(config, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_runner_loader_with_clips_of_unequal_length(root, workers):
    for name, frames in (("a", 5), ("b", 3), ("c", 4)):
        root.add(f"run/{name}", frames)
    batches = loader(root.write(), batch_size=2, test_mode=True, workers=workers)
    for _ in range(2 if workers else 1):  # persistent workers serve a second epoch
        preprocessor = ClipPoseDataPreprocessor()
        out = [preprocessor(batch) for batch in batches]
        assert [tuple(b["inputs"].shape) for b in out] == [(10, 3, 64, 48), (4, 3, 64, 48)]
        assert [[len(clip) for clip in b["data_samples"]] for b in out] == [[5, 3], [4]]
        names = [clip[0].clip_id[-3:] for b in out for clip in b["data_samples"]]
        assert names == ["a#0", "b#0", "c#0"]


def test_a_used_data_set_can_be_pickled_for_workers(root):
    root.add("run/a", 4)
    pipeline = [*PLAIN[:2], dict(type="RandomFlip"), dict(type="RandomBBoxTransform"), *PLAIN[2:]]
    dataset = ClipDataset(root.write(), clip_len=4, pipeline=pipeline)
    dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    np.random.seed(1)
    first = dataset[0]["inputs"]
    np.random.seed(1)
    assert torch.equal(again[0]["inputs"], first)


class Draws(BaseTransform):
    """Writes what it draws, from every generator that there is, over the image."""

    def transform(self, results: dict) -> dict:
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
        results["img"] = np.full_like(results["img"], 0) + (np.array(drawn) * 255).astype(np.uint8)
        return results


def draws_by_epoch(
    dataset: ClipDataset, workers: int, seed: tuple[int, ...] = (11,), **options: object
) -> list[dict]:
    """What each item of three epochs shows, from one loader whose workers persist."""
    loader = Runner.build_dataloader(
        dict(
            dataset=dataset,
            batch_size=2,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=dict(type="DefaultSampler", shuffle=True, seed=workers),
            **options,
        ),
        seed=workers,
    )
    dataset = loader.dataset  # a copy
    dataset.seed_draws(*seed)
    epochs = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        seen = {}
        for batch in loader:
            for inputs, samples in zip(batch["inputs"], batch["data_samples"], strict=True):
                seen[samples[0].clip_id, samples[0].frame] = tuple(inputs[0, :, 0, 0].tolist())
        epochs.append(seen)
    if workers:
        loader._iterator._shutdown_workers()
    return epochs


def seeded_dataset(root, clips: int = 6) -> ClipDataset:
    for n in range(clips):
        root.add(f"run/{n}", 2)
    pipeline = [*PLAIN[:1], Draws(), *PLAIN[1:2], *PLAIN[4:]]
    return ClipDataset(root.write(), clip_len=2, pipeline=pipeline)


def test_seeded_draws_depend_on_seed_epoch_and_index_alone(root):
    dataset = seeded_dataset(root)
    first = draws_by_epoch(dataset, workers=0)
    assert all(len(epoch) == 6 for epoch in first)
    for generator in range(3):  # none of them is idle, none repeats itself
        drawn = [shown[generator] for epoch in first for shown in epoch.values()]
        assert len(set(drawn)) > 10
    for workers in (1, 2):
        assert draws_by_epoch(dataset, workers) == first
    for seed in ((12, 0), (11, 1)):
        assert draws_by_epoch(dataset, 0, seed) != first
    dataset.seed_draws(11)
    assert torch.equal(dataset[-1]["inputs"], dataset[5]["inputs"])


def test_an_index_may_bring_its_epoch_along(root):
    dataset = seeded_dataset(root, clips=2)
    dataset.seed_draws(11)
    index = pickle.loads(pickle.dumps(EpochIndex(1, epoch=4)))  # as it goes to a worker
    assert (index, index.epoch) == (1, 4)
    brought = dataset[index]["inputs"]
    assert not torch.equal(brought, dataset[1]["inputs"])
    dataset.set_epoch(4)
    assert torch.equal(brought, dataset[1]["inputs"])


def test_seeded_draws_leave_the_generators_alone(root):
    dataset = seeded_dataset(root, clips=1)

    def following() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()

    def seed() -> None:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    seed()
    expected = following()
    dataset.seed_draws(11)
    seed()
    shown = dataset[0]["inputs"]
    assert following() == expected
    dataset.seed_draws(None)  # and without a seed it draws from them
    seed()
    assert not torch.equal(dataset[0]["inputs"], shown)
    assert following() != expected
    with pytest.raises(ValueError, match="found -1 and 0"):
        dataset.seed_draws(-1)


@pytest.mark.slow
def test_the_epoch_reaches_spawned_workers(root):
    dataset = seeded_dataset(root, clips=3)
    dataset.pipeline.transforms[1] = PhotometricDistortion()  # found by name in another process
    first = draws_by_epoch(dataset, workers=0)
    assert draws_by_epoch(dataset, workers=2, multiprocessing_context="spawn") == first
    assert first[0] != first[1]


def test_a_pipeline_that_packs_nothing_gives_the_frames(root):
    root.add("run/a", 2)
    item = ClipDataset(root.write(), pipeline=[])[0]
    assert item["clip_id"] == "Rename_Images/run/a#0"
    assert [frame["frame"] for frame in item["frames"]] == [0, 1]
    assert item["frames"][0]["keypoints"].shape == (1, 15, 2)


# Real data


def test_official_jhmdb_sample():
    folder = DATA / "jhmdb_official_sample"
    if not folder.is_dir():
        pytest.skip(f"no official sample at {folder}; set SKIPPOSE_TEST_DATA")
    dataset = ClipDataset(
        dict(
            type="JhmdbDataset",
            data_root=str(folder),
            ann_file="test_jhmdb_sub1.json",
            data_prefix=dict(img=""),
        ),
        pipeline=PLAIN,
        test_mode=True,
    )
    content = json.loads((folder / "test_jhmdb_sub1.json").read_text())
    assert len(dataset) == 3
    for item, annotation in zip(dataset, content["annotations"], strict=True):
        (sample,) = item["data_samples"]
        x, y, w, h = annotation["bbox"]
        np.testing.assert_allclose(
            sample.gt_instances.bboxes[0], [x - 1, y - 1, x - 1 + w, y - 1 + h]
        )
        points = np.reshape(annotation["keypoints"], (15, 3))[:, :2] - 1
        np.testing.assert_allclose(sample.gt_instances.keypoints[0], points, rtol=1e-6)


def test_posetrack_video():
    folder = DATA / "posetrack18"
    path = folder / "annotations" / "posetrack18_val.json"
    if not path.is_file():
        pytest.skip(f"no PoseTrack video at {path}; set SKIPPOSE_TEST_DATA")
    content = json.loads(path.read_text())
    dataset = ClipDataset(
        dict(
            type="PoseTrack18Dataset",
            data_root=str(folder),
            ann_file="annotations/posetrack18_val.json",
            data_prefix=dict(img=""),
        ),
        pipeline=PLAIN,
        test_mode=True,
    )
    tracks = {a["track_id"] for a in content["annotations"]}
    assert len(dataset) == len(tracks) == 4
    item = dataset[1]
    (clip_id,) = {s.clip_id for s in item["data_samples"]}
    track = int(clip_id.split("#")[1])
    own = {a["image_id"]: a for a in content["annotations"] if a["track_id"] == track}
    labelled = [s for s in item["data_samples"] if s.labelled]
    assert {s.img_id for s in labelled} <= own.keys()
    for sample in labelled:
        points = np.reshape(own[sample.img_id]["keypoints"], (17, 3))[:, :2]
        np.testing.assert_allclose(sample.gt_instances.keypoints[0], points, rtol=1e-5)
