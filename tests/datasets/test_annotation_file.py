"""PoseTrack's annotations and detections as clips, the broken ones too."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmpose")

from skippose.datasets import ClipDataset
from skippose.datasets.clip_pipeline import FrameError

FRAMES = 6
PLAIN = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="TopdownAffine", input_size=(24, 32)),
    dict(type="PackPoseInputs"),
]


class PoseTrack:
    """One video of two people in six frames; tests change the content and read it again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        (root / "images" / "v").mkdir(parents=True)
        self.images, self.annotations = [], []
        for t in range(FRAMES):
            name = f"images/v/{t:06d}.jpg"
            cv2.imwrite(str(root / name), rng.integers(0, 255, (48, 64, 3), np.uint8))
            self.images.append(dict(id=t, file_name=name, width=64, height=48))
            for track in (0, 1):
                box = [4 + 25 * track, 5, 18, 36]
                points = np.column_stack([rng.uniform(5, 20, (17, 2)), np.ones(17)])
                self.annotations.append(
                    dict(
                        id=10 * t + track,
                        image_id=t,
                        track_id=track,
                        category_id=1,
                        bbox=box,
                        keypoints=points.ravel().tolist(),
                        iscrowd=False,
                    )
                )

    def dataset(self, detections: object = None, **settings) -> ClipDataset:
        content = dict(
            images=self.images,
            annotations=self.annotations,
            categories=[dict(id=1, name="person")],
        )
        (self.root / "val.json").write_text(json.dumps(content))
        wrapped = dict(type="PoseTrack18Dataset", data_root=str(self.root), ann_file="val.json")
        wrapped |= settings.pop("wrapped", {})
        if detections is not None:
            path = self.root / "detections.json"
            path.write_text(json.dumps(detections))
            wrapped["bbox_file"] = str(path)
        return ClipDataset(wrapped, pipeline=PLAIN, test_mode=True, **settings)

    def found(self) -> list[dict]:
        """Detections of everybody."""
        return [
            dict(image_id=a["image_id"], category_id=1, bbox=a["bbox"], score=0.9)
            for a in self.annotations
        ]


@pytest.fixture
def posetrack(tmp_path) -> PoseTrack:
    return PoseTrack(tmp_path)


def labels(dataset: ClipDataset) -> dict[str, str]:
    """Clip id -> a letter for each frame: x labelled, - not."""
    items = [dataset.get_data_info(n) for n in range(len(dataset))]
    return {
        i["clip_id"]: "".join("x" if f["labelled"] else "-" for f in i["frames"]) for i in items
    }


def test_people_of_a_video_are_clips(posetrack):
    assert labels(posetrack.dataset()) == {"images/v#0": "xxxxxx", "images/v#1": "xxxxxx"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: [a.pop("track_id") for a in p.annotations],
            r"val.json: images/v/000000.jpg: annotation 0 has no track_id. Found 12 of 12 .* and 6 "
            "images with several people",
        ),
        (
            lambda p: p.annotations[3].pop("track_id"),
            "annotation 11 has no track_id. Found 1 of 12",
        ),
        (
            lambda p: p.annotations[3].update(track_id=0),
            "images/v/000001.jpg: annotations 10 and 11 have the same track_id 0",
        ),
        (
            lambda p: p.annotations[3].update(id=0),
            r"annotations in \['images/v/000000.jpg', .*same",
        ),
        (lambda p: p.images[3].update(id=0), "have the same id 0"),
        (lambda p: p.annotations[3].update(image_id=77), "annotation 11 belongs to image 77"),
        (
            lambda p: p.images.append(dict(p.images[0], id=99)),
            "lists an image twice: images/v/0",
        ),
        (lambda p: p.images.clear(), r"val.json: 'images' is empty"),
        (
            lambda p: p.images[2].pop("width"),
            r"val.json: images/v/000002.jpg: image 2 has no 'width': found \['file_name', 'height'",
        ),
        (
            lambda p: p.annotations[3].update(keypoints=[1.0] * 48),
            "val.json: images/v/000001.jpg: annotation 11 has 16 joints, PoseTrack18Dataset has 17",
        ),
        (lambda p: p.images[2].pop("file_name"), "entry 2 of 'images' has no 'file_name'"),
        (lambda p: p.annotations[3].pop("image_id"), "entry 3 of 'annotations' has no 'image_id'"),
        (
            lambda p: p.annotations[3].update(bbox=[1, 2, 3]),
            "images/v/000001.jpg: annotation 11 cannot be read .* expected bbox",
        ),
        (
            lambda p: p.annotations[3].update(keypoints=[1.0] * 50),
            "images/v/000001.jpg: annotation 11 cannot be read .* for every joint",
        ),
    ],
)
def test_broken_annotations_are_named(posetrack, damage: Callable, message: str):
    damage(posetrack)
    with pytest.raises(ValueError, match=message):
        posetrack.dataset()


def test_a_listed_frame_that_is_absent_raises_when_its_clip_is_asked_for(posetrack):
    (posetrack.root / "images/v/000004.jpg").unlink()
    dataset = posetrack.dataset()
    with pytest.raises(FrameError, match=r"images/v/000004.jpg"):
        dataset[0]


def test_a_file_that_ends_in_the_middle_is_named(posetrack):
    posetrack.dataset()
    path = posetrack.root / "val.json"
    text = path.read_text()
    half = posetrack.root / "half.json"
    half.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"annotation file .*half.json: no JSON \("):
        posetrack.dataset(wrapped=dict(ann_file="half.json"))
    with pytest.raises(ValueError, match=r"file of detections .*half.json: expected a list"):
        posetrack.dataset(wrapped=dict(bbox_file=str(half)))


NAN = float("nan")


@pytest.mark.parametrize(
    "box",
    [
        [70, 5, 20, 20],
        [-50, 5, 20, 20],
        [5, 60, 10, 10],
        [5, 5, 0, 9],
        [NAN, 5, 9, 9],
        [5, 5, 9, NAN],
    ],
)
def test_a_box_outside_of_the_image_is_no_label(posetrack, box):
    posetrack.annotations[5]["bbox"] = box
    dataset = posetrack.dataset()
    assert labels(dataset) == {"images/v#0": "xxxxxx", "images/v#1": "xx-xxx"}
    frames = dataset.get_data_info(1)["frames"]
    np.testing.assert_array_equal(frames[2]["bbox"], frames[1]["bbox"])
    assert len(dataset[1]["data_samples"]) == FRAMES


def test_a_box_that_is_partly_outside_is_cut(posetrack):
    posetrack.annotations[5]["bbox"] = [40, -10, 60, 30]
    dataset = posetrack.dataset()
    assert labels(dataset)["images/v#1"] == "xxxxxx"
    np.testing.assert_array_equal(dataset.get_data_info(1)["frames"][2]["bbox"], [[40, 0, 63, 20]])


def test_every_detection_is_labelled_once(posetrack):
    found = posetrack.found()
    del found[4]  # one that the detector has missed
    dataset = posetrack.dataset(found)
    assert labels(dataset) == {"images/v#d0": "xx-xxx", "images/v#d1": "xxxxxx"}
    infos = [f for n in range(2) for f in dataset.get_data_info(n)["frames"] if f["labelled"]]
    assert Counter(f["id"] for f in infos) == Counter(range(len(found)))


def test_bad_detections_are_left_out(posetrack):
    found = posetrack.found()
    found[0]["bbox"] = [5, 5, 0, 10]
    found[1]["bbox"] = [5, 5, float("nan"), 10]
    found[2]["score"] = 0.1
    found[3]["category_id"] = 2
    settings = dict(wrapped=dict(filter_cfg=dict(bbox_score_thr=0.4)))
    dataset = posetrack.dataset(found, **settings)
    assert labels(dataset) == {"images/v#d0": "xxxx", "images/v#d1": "xxxx"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda found: [], "detections.json: .*expected a list of dicts|no detection is left of 0"),
        (lambda found: dict(boxes=found), "detections.json: expected a list of dicts"),
        (lambda found: [dict(d, score=0.1) for d in found], "no detection is left of 12 people, 0"),
        (lambda found: [dict(found[0], bbox=[5, 5, 0, 0])], "no detection is left of 1 people, 1"),
        (lambda found: [dict(found[0], image_id=77)], "of an image that the annotation file lists"),
        (lambda found: [{"image_id": 0, "category_id": 1}], "detections.json: .* KeyError 'bbox'"),
    ],
)
def test_a_file_without_detections_is_refused(posetrack, make: Callable, message: str):
    settings = dict(wrapped=dict(filter_cfg=dict(bbox_score_thr=0.4)))
    with pytest.raises(ValueError, match=message):
        posetrack.dataset(make(posetrack.found()), **settings)


def test_missing_files_are_named(posetrack):
    with pytest.raises(FileNotFoundError, match="file of detections /nowhere.json: missing"):
        posetrack.dataset(wrapped=dict(bbox_file="/nowhere.json"))
    with pytest.raises(FileNotFoundError, match="absent.json: missing.*SKIPPOSE_POSETRACK18"):
        posetrack.dataset(wrapped=dict(ann_file="absent.json"))


@pytest.mark.parametrize("ending", [".pkl", ".yaml", ".json"])
@pytest.mark.parametrize("where", ["ann_file", "bbox_file"])
def test_no_file_runs_what_is_in_it(posetrack, tmp_path, where, ending):
    """mmengine, and mmpose with it, read .pkl and .yaml so that they may run any code."""
    ran = tmp_path / "it_ran"

    class Writes:
        def __reduce__(self) -> tuple:
            return open, (str(ran), "w")

    path = tmp_path / f"evil{ending}"
    if ending == ".yaml":
        path.write_text(f"!!python/object/apply:builtins.open [{str(ran)!r}, w]")
    else:
        path.write_bytes(pickle.dumps(Writes()))
    with pytest.raises(ValueError, match=rf"evil\{ending}: (no JSON|expected)"):
        posetrack.dataset(wrapped={where: str(path)})
    assert not ran.exists()
