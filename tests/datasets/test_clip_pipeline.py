"""One augmentation draw for a clip, seen on the pixels."""

import random

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform, RandomApply
from mmcv.transforms.utils import avoid_cache_randomness, cache_randomness
from mmpose.datasets.transforms import PhotometricDistortion, RandomFlip, RandomHalfBody

from skippose.datasets import ClipDataset, ClipPipeline, FrameError
from skippose.datasets.clip_pipeline import check_image_file

H, W = 72, 96
CODEC = dict(type="MSRAHeatmap", input_size=(64, 64), heatmap_size=(16, 16), sigma=1)


def train_pipeline(**half_body: float) -> list:
    return [
        dict(type="LoadImage"),
        dict(type="GetBBoxCenterScale"),
        dict(type="RandomFlip", direction="horizontal"),
        dict(type="RandomHalfBody", **{"prob": 1.0, **half_body}),
        dict(type="RandomBBoxTransform", shift_prob=1.0, rotate_prob=1.0),
        dict(type="PhotometricDistortion"),
        dict(type="TopdownAffine", input_size=(64, 64)),
        dict(type="GenerateTarget", encoder=CODEC),
        dict(type="PackPoseInputs"),
    ]


def scenery(t: int = 0) -> np.ndarray:
    """An image whose first two channels tell the place of every pixel; the third changes."""
    y, x = np.mgrid[:H, :W]
    third = np.full((H, W), (37 * t) % 256)
    return np.stack([x * 2, y * 3, third], axis=2).astype(np.uint8)


def restless(rng: np.random.Generator, frames: int, jitter: float) -> tuple:
    """A person whose keypoints, their visibility and whose box change in every frame."""
    boxes = np.array([30.0, 16, 24, 40]) + rng.uniform(-jitter, jitter, (frames, 4))
    points = rng.uniform(0, 1, (frames, 15, 2)) * boxes[:, None, 2:] + boxes[:, None, :2]
    visible = rng.choice([0.0, 2.0], (frames, 15, 1), p=[0.2, 0.8])
    return np.concatenate([points, visible], axis=2), boxes


@pytest.mark.parametrize("seed", range(6))
def test_a_still_clip_has_no_residual_whatever_its_annotation_does(root, seed):
    points, boxes = restless(np.random.default_rng(seed), 8, jitter=1.0)
    root.add("run/still", 8, image=lambda t: scenery(), points=points, boxes=boxes)
    dataset = ClipDataset(root.write(), clip_len=8, pipeline=train_pipeline())
    np.random.seed(seed)
    inputs = dataset[0]["inputs"]
    assert inputs.shape == (8, 3, 64, 64) and inputs.dtype == torch.uint8
    assert inputs.float().std() > 5  # there is something to see
    assert (inputs == inputs[:1]).all()


def test_the_annotation_of_that_clip_would_move_single_images(root):
    """The control: mmpose's transforms on the same frames one by one, same seeds."""
    points, boxes = restless(np.random.default_rng(0), 8, jitter=1.0)
    root.add("run/still", 8, image=lambda t: scenery(), points=points, boxes=boxes)
    dataset = ClipDataset(root.write(), clip_len=1, pipeline=train_pipeline())
    images = []
    for index in range(8):
        np.random.seed(0)
        images.append(dataset[index]["inputs"][0])
    assert not all(torch.equal(image, images[0]) for image in images)


def window_of(sample) -> np.ndarray:
    """Centre and scale of the crop, which mmpose 1.1 keeps with the instances."""
    meta, instances = sample.metainfo, sample.gt_instances
    if "input_center" in meta:
        return np.stack([meta["input_center"], meta["input_scale"]])
    return np.concatenate([instances.bbox_centers, instances.bbox_scales])


@pytest.mark.parametrize("seed", range(4))
def test_moving_content_is_seen_through_one_window(root, seed):
    root.add("run/moving", 8, image=scenery)
    pipeline = train_pipeline()
    del pipeline[5]  # photometric distortion mixes the channels
    dataset = ClipDataset(root.write(), clip_len=8, pipeline=pipeline)
    np.random.seed(seed)
    item = dataset[0]
    places, content = item["inputs"][:, :2], item["inputs"][:, 2]
    assert (places == places[:1]).all()
    assert all((content[t] != content[t - 1]).any() for t in range(1, 8))
    metas = [sample.metainfo for sample in item["data_samples"]]
    assert len({meta["flip"] for meta in metas}) == 1
    windows = [window_of(sample) for sample in item["data_samples"]]
    assert all(np.array_equal(window, windows[0]) for window in windows)


def test_draws_differ_between_items_and_between_visits(root):
    root.add("run/a", 16, image=lambda t: scenery())
    dataset = ClipDataset(root.write(), clip_len=8, pipeline=train_pipeline())
    np.random.seed(0)
    seen = [dataset[index]["inputs"][0] for index in (0, 1, 0, 1)]
    assert not any(torch.equal(a, b) for n, a in enumerate(seen) for b in seen[:n])
    flips = {dataset[0]["data_samples"][0].flip for _ in range(20)}
    assert flips == {True, False}


class Reseedable:
    """Draws as albumentations' Compose does: from a generator of its own."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()

    def set_random_seed(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)


class Wrapper(BaseTransform):
    """Holds it as mmpose's `Albumentation` does."""

    def __init__(self) -> None:
        self.aug = Reseedable()

    def transform(self, results: dict) -> dict:
        results["img"] = results["img"] * 0 + self.aug.generator.integers(255, dtype=np.uint8)
        return results


def test_a_key_seeds_generators_within_transforms_too(root):
    root.add("run/a", 4, image=lambda t: scenery())
    pipeline = [dict(type="LoadImage"), Wrapper()]
    dataset = ClipDataset(root.write(), clip_len=2, pipeline=pipeline, crop="frame")

    def shown(index: int) -> list[int]:
        return [int(frame["img"][0, 0, 0]) for frame in dataset[index]["frames"]]

    assert len({tuple(shown(0)) for _ in range(20)}) > 5
    dataset.seed_draws(1)
    first = [shown(index) for index in (0, 1)]
    assert [shown(index) for index in (1, 0)] == first[::-1]
    assert first[0] != first[1] and all(a == b for a, b in first)


def test_half_body_is_that_of_the_middle_labelled_frame(root):
    root.add("run/a", 5, image=scenery)
    pipeline = [
        dict(type="LoadImage"),
        dict(type="GetBBoxCenterScale"),
        dict(type="RandomHalfBody", prob=1.0, upper_prioritized_prob=1.0, padding=1.5),
        dict(type="TopdownAffine", input_size=(64, 64)),
        dict(type="PackPoseInputs"),
    ]
    dataset = ClipDataset(root.write(), clip_len=5, pipeline=pipeline)
    info = dataset.get_data_info(0)["frames"]
    upper = info[2]["keypoints"][0][info[2]["upper_body_ids"]]
    for sample in dataset[0]["data_samples"]:
        centre, scale = window_of(sample)
        np.testing.assert_allclose(centre, upper.mean(0), rtol=1e-6)
        side = (upper.max(0) - upper.min(0)).max() * 1.5
        np.testing.assert_allclose(scale, [side, side], rtol=1e-6)


def test_a_crop_that_moves_keeps_the_same_shift_scale_and_rotation(root):
    """Where the person walks out of the window, the augmentation goes with the new window."""
    root.add("run/a", 8, image=scenery, drift=4.0)
    pipeline = train_pipeline()[:-3]
    del pipeline[5], pipeline[3], pipeline[2]  # leaves the shift, the scaling and the rotation
    plain = [*pipeline[:2], dict(type="TopdownAffine", input_size=(64, 64))]
    config = root.write()
    before = ClipDataset(config, clip_len=8, pipeline=plain)[0]["frames"]
    np.random.seed(3)
    after = ClipDataset(config, clip_len=8, pipeline=pipeline)[0]["frames"]
    centres = np.stack([f["bbox_center"][0] for f in before])
    assert 1 < len(np.unique(centres, axis=0)) < 8
    relative = [
        (a["bbox_center"] - b["bbox_center"]) / b["bbox_scale"].max()
        for a, b in zip(after, before, strict=True)
    ]
    assert len({f["bbox_rotation"].item() for f in after}) == 1
    assert np.ptp(np.stack(relative), axis=0).max() < 1e-5
    assert np.abs(relative).max() > 0.01


def test_keypoints_go_with_the_pixels(root):
    """A joint painted white is white where the transformed keypoint says."""
    frames = 6
    points, boxes = restless(np.random.default_rng(1), frames, jitter=0.0)
    points[:, :, 2] = 2
    points[..., :2] = points[..., :2].round()

    def painted(t: int) -> np.ndarray:
        image = np.zeros((H, W, 3), np.uint8)
        x, y = points[t, 7, :2].astype(int)  # right elbow
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
        return image

    root.add("run/a", frames, image=painted, points=points, boxes=boxes)
    pipeline = train_pipeline(prob=0.0)
    del pipeline[5]
    pipeline[4].update(scale_factor=(1.0, 1.2), shift_factor=0.05)
    pipeline[-1]["pack_transformed"] = True
    dataset = ClipDataset(root.write(), clip_len=frames, pipeline=pipeline)
    seen, flips = 0, set()
    for seed in range(8):
        np.random.seed(seed)
        item = dataset[0]
        for image, sample in zip(item["inputs"], item["data_samples"], strict=True):
            joint = 8 if sample.flip else 7
            x, y = sample.gt_instances.transformed_keypoints[0, joint].round().astype(int)
            if 1 <= x < 63 and 1 <= y < 63:
                assert image[:, y, x].min() > 200
                peak = sample.gt_fields.heatmaps[joint].argmax().item()
                assert abs(peak % 16 - x / 4) <= 1 and abs(peak // 16 - y / 4) <= 1
                seen += 1
                flips.add(sample.flip)
    assert seen > 20 and flips == {True, False}


class OwnGenerator(BaseTransform):
    """Draws from a generator of its own, as albumentations do."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def transform(self, results: dict) -> dict:
        results["drawn"] = self.rng.random()
        return results


@avoid_cache_randomness
class NotCacheable(OwnGenerator):
    pass


class GlobalGenerators(BaseTransform):
    def transform(self, results: dict) -> dict:
        results["drawn"] = (random.random(), np.random.rand(), torch.rand(()).item())
        return results


class ByContent(BaseTransform):
    """Draws as many numbers as the frame has keypoints, cached as mmcv asks."""

    @cache_randomness
    def _draw(self, count: int) -> tuple:
        return tuple(np.random.rand(count))

    def transform(self, results: dict) -> dict:
        results["drawn"] = self._draw(results["count"])
        return results


class Maybe(RandomApply):
    """An mmcv wrapper around the above."""

    def __init__(self) -> None:
        super().__init__([ByContent()], prob=0.5)


@pytest.mark.parametrize("kind", [OwnGenerator, NotCacheable, GlobalGenerators, ByContent, Maybe])
def test_any_kind_of_draw_is_made_once(kind):
    pipeline = ClipPipeline([kind()])
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    draws = []
    for _ in range(12):
        frames = [dict(bbox=np.zeros((1, 4)), count=t + 1) for t in range(4)]
        results = pipeline(frames, np.zeros((4, 4)), representative=2)
        drawn = {result.get("drawn") for result in results}
        assert len(drawn) == 1
        draws.append(drawn.pop())
    made = [draw for draw in draws if draw is not None]
    assert len(set(made)) == len(made) > 1  # every clip draws anew
    assert (None in draws) == (kind is Maybe)


def test_wrapped_photometric_distortion_is_one_draw(root):
    root.add("run/a", 6, image=lambda t: scenery())
    pipeline = train_pipeline()
    pipeline[5] = dict(
        type="RandomApply", transforms=[dict(type="PhotometricDistortion")], prob=0.5
    )
    dataset = ClipDataset(root.write(), clip_len=6, pipeline=pipeline)
    for seed in range(6):
        np.random.seed(seed)
        inputs = dataset[0]["inputs"]
        assert (inputs == inputs[:1]).all()


def test_a_clip_advances_the_generators_as_one_image_does():
    states = []
    for frames in (1, 5):
        np.random.seed(0)
        pipeline = ClipPipeline([GlobalGenerators()])
        pipeline([dict(bbox=np.zeros((1, 4))) for _ in range(frames)], np.zeros((frames, 4)))
        states.append(np.random.rand())
    assert states[0] == states[1]


def test_window_transforms_in_a_mixed_wrapper_are_refused():
    with pytest.raises(ValueError, match="must not share a wrapper"):
        ClipPipeline([RandomApply([RandomHalfBody(), PhotometricDistortion()], prob=0.5)])


def test_a_flip_before_the_crop_is_refused(root):
    root.add("run/a", 2)
    pipeline = train_pipeline()
    pipeline[1], pipeline[2] = dict(type="RandomFlip", prob=1.0), pipeline[1]
    with pytest.raises(ValueError, match="GetBBoxCenterScale must come before"):
        ClipDataset(root.write(), pipeline=pipeline)[0]


def test_a_transform_that_returns_nothing_is_an_error():
    class Nothing(BaseTransform):
        def transform(self, results: dict) -> None:
            return None

    with pytest.raises(FrameError, match="Nothing returned nothing"):
        ClipPipeline([Nothing()])([dict(bbox=np.zeros((1, 4)))], np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", None, "a.png: missing"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "a.png: truncated .58 bytes"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(50), "a.jpg: truncated .54 bytes"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FrameError, match=message):
        check_image_file(str(tmp_path / name))


def test_files_behind_other_backends_are_left_to_the_loader(tmp_path):
    check_image_file("s3://bucket/a.png")
    (tmp_path / "a.png").write_bytes(b"another format")
    check_image_file(str(tmp_path / "a.png"))


def test_the_transforms_themselves_stay_as_they_were():
    """mmcv's cache leaves bound methods in a transform that cannot be pickled; none stay here."""
    flip = RandomFlip()
    before = dict(flip.__dict__)
    pipeline = ClipPipeline([flip])
    frames = [
        dict(bbox=np.zeros((1, 4)), img=np.zeros((4, 4, 3), np.uint8), img_shape=(4, 4))
        for _ in range(3)
    ]
    pipeline(frames, np.zeros((3, 4)))
    assert flip.__dict__ == before


def test_the_same_crop_before_is_the_same_crop_after_to_the_last_bit():
    pipeline = ClipPipeline(
        [
            dict(type="GetBBoxCenterScale"),
            dict(type="RandomHalfBody", prob=0.5),
            dict(type="RandomBBoxTransform", shift_prob=1.0, rotate_prob=1.0),
        ]
    )
    for seed in range(50):
        rng = np.random.default_rng(seed)
        np.random.seed(seed)
        points, boxes = restless(rng, 4, jitter=2.0)
        boxes[:, 2:] += boxes[:, :2]
        frames = [
            dict(
                bbox=boxes[t : t + 1].astype(np.float32),
                keypoints=points[t : t + 1, :, :2].astype(np.float32),
                keypoints_visible=np.minimum(points[t : t + 1, :, 2], 1),
                upper_body_ids=[0, 1, 2, 3, 4, 7, 8, 11, 12],
                lower_body_ids=[5, 6, 9, 10, 13, 14],
            )
            for t in range(4)
        ]
        windows = np.repeat(boxes[:1], 4, axis=0)
        results = pipeline(frames, windows, representative=2)
        for key in ("bbox_center", "bbox_scale", "bbox_rotation"):
            assert len({result[key].tobytes() for result in results}) == 1, (seed, key)
