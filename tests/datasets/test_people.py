"""Many people in one video: slots, windows, and what is reset."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import skippose
from skippose.datasets.people import PeopleStream

SIZE = (32, 48)  # width, height of the input
DATA = Path(os.environ.get("SKIPPOSE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared/data"))


class Watched:
    """A stream that notes what it is asked for."""

    def __init__(self, net: nn.Module) -> None:
        self.stream = skippose.Stream(net)
        self.resets: list[list[int]] = []
        self.frames: list[torch.Tensor] = []

    @property
    def slots(self) -> int | None:
        return self.stream.slots

    def __call__(self, frame: torch.Tensor) -> torch.Tensor:
        self.frames.append(frame.clone())
        return self.stream(frame)

    def reset(self, slots: list[int] | None = None) -> None:
        self.resets.append(slots)
        self.stream.reset(slots)

    def report(self):
        return self.stream.report()


@pytest.fixture
def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, 2, 1)).eval()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)


def people(dense: nn.Module, capacity: int = 3, **settings) -> tuple[PeopleStream, Watched]:
    watched = Watched(skippose.convert(dense, skippose.InputNormGate(eps=0.0)))
    return PeopleStream(watched, SIZE, capacity, **settings), watched


A, B = np.array([20, 20, 50, 80.0]), np.array([90, 30, 120, 90.0])


def test_each_person_gets_what_the_dense_network_gives_for_the_crop(dense, image):
    stream, watched = people(dense)
    rng = np.random.default_rng(1)
    for t in range(5):
        image[::7, ::5] = rng.integers(0, 255, image[::7, ::5].shape)
        found = stream(image, {"a": A + 0.4 * t, "b": B - 6 * t})
        assert found.keys() == {"a", "b"}
        for person in found.values():
            crop = watched.frames[-1][person.slot : person.slot + 1]
            torch.testing.assert_close(person.output, dense(crop), atol=1e-5, rtol=1e-5)
    assert stream.person_frames == 10


def test_crops_are_those_of_mmposes_pipeline(dense, image):
    from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine

    stream, watched = people(dense)
    person = stream(image, {"a": A})["a"]
    result = dict(img=image, bbox=A[None].astype(np.float32))
    result = TopdownAffine(SIZE)(GetBBoxCenterScale()(result))
    crop = torch.tensor(result["img"][..., ::-1].copy()).permute(2, 0, 1).float()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (crop - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(watched.frames[0][person.slot], expected)
    centre = person.to_image(np.array([[SIZE[0] / 2, SIZE[1] / 2]]))
    assert centre[0] == pytest.approx([35, 50])


def test_only_what_moved_is_reset(dense, image):
    stream, watched = people(dense)
    stream(image, {"a": A, "b": B})
    assert watched.resets == []  # the stream's first frame is dense anyway
    found = stream(image, {"a": A + 1, "b": B + 1})
    assert watched.resets == [] and not found["a"].fresh and not found["b"].fresh
    assert np.array_equal(found["a"].window, A)
    found = stream(image, {"a": A + 1, "b": B + 25})
    assert watched.resets == [[found["b"].slot]] and found["b"].fresh and not found["a"].fresh
    found = stream(image, {"a": A, "c": A + 40})
    assert watched.resets[1:] == [[2]] and found["c"].slot == 2


def test_an_absent_person_costs_nothing_and_comes_back_without_a_reset(dense, image):
    stream, watched = people(dense, patience=3)
    stream(image, {"a": A, "b": B})
    before = watched.frames[-1]
    for _ in range(3):
        stream(image, {"b": B})
        assert torch.equal(watched.frames[-1], before)
    assert not stream(image, {"a": A, "b": B})["a"].fresh and watched.resets == []
    report = watched.report()
    assert report.frames == 4 * 3 and report.gmacs == 0
    assert stream.gmacs_per_person() == pytest.approx(3 * report.dense_gmacs / 7)
    for _ in range(4):
        stream(image, {"b": B})
    assert stream(image, {"a": A, "b": B})["a"].fresh and watched.resets == [[0]]


def test_more_people_than_slots_and_frames_without_any(dense, image):
    stream, _ = people(dense, capacity=1)
    assert stream(image, {}) == {}
    assert stream(image, {"a": A, "b": B}).keys() == {"a"}


def test_a_new_video_begins_anew(dense, image):
    stream, watched = people(dense)
    stream(image, {"a": A})
    with pytest.raises(ValueError, match="call reset"):
        stream(image[:100], {"a": A})
    stream.reset()
    assert watched.resets == [None]
    assert stream(image[:100], {"z": A})["z"].fresh


def test_bad_input_changes_nothing(dense, image):
    stream, watched = people(dense)
    stream(image, {"a": A})
    with pytest.raises(ValueError, match="track 'b': .*x2 > x1"):
        stream(image, {"a": A, "b": A[[2, 1, 0, 3]]})
    with pytest.raises(ValueError, match="uint8 .* float64"):
        stream(image.astype(float), {"a": A})
    assert len(watched.frames) == 1 and stream.slots.occupied == {"a": 0}


def panned(dense: nn.Module, speed: int, person: int, stabilise: bool) -> float:
    """MACs relative to dense, first frames and resets included, of 30 frames under a pan.

    The person goes through the picture with ``person`` pixels a frame.
    """
    rng = np.random.default_rng(3)
    scene = cv2.resize(rng.integers(0, 255, (30, 120, 3), np.uint8), (960, 240))
    figure = rng.integers(0, 255, (60, 30, 3), np.uint8)
    watched = Watched(skippose.convert(dense, skippose.InputNormGate(eps=0.1)))
    stream = PeopleStream(watched, SIZE, 1, stabilise=stabilise)
    for t in range(30):
        frame = np.ascontiguousarray(scene[40:160, 20 + speed * t : 220 + speed * t])
        left = 85 + person * (t - 15)
        frame[30:90, left : left + 30] = figure
        stream(frame, {"a": np.array([left, 30, left + 30, 90.0])})
    return stream.gmacs_per_person() / watched.report().dense_gmacs


@pytest.mark.parametrize("speed", [1, 2, 3, 5])
def test_a_stabilised_window_leaves_a_pans_background_still(dense, speed):
    """The person stands there and the camera pans: all is still in the crop."""
    cost = {on: panned(dense, speed, -speed, on) for on in (False, True)}
    assert cost[True] < 0.15 < 0.3 < cost[False], cost


@pytest.mark.parametrize(("speed", "person"), [(0, 0), (0, 2), (2, 0), (6, 0), (12, 0), (3, 2)])
def test_stabilising_is_not_worse_than_not(dense, speed, person):
    cost = {on: panned(dense, speed, person, on) for on in (False, True)}
    assert cost[True] <= cost[False], cost


def test_the_people_of_a_real_video(dense):
    """Four tracks under a moving camera: each as the dense network sees it, one slot each."""
    path = DATA / "posetrack18" / "annotations" / "posetrack18_val.json"
    if not path.is_file():
        pytest.skip(f"no PoseTrack video at {path}; set SKIPPOSE_TEST_DATA")
    content = json.loads(path.read_text())
    stream, watched = people(dense, capacity=4, stabilise=True)
    slots: dict[int, int] = {}
    fresh = 0
    for image in content["images"][:15]:
        boxes = {}
        for a in content["annotations"]:
            if a["image_id"] == image["id"]:
                x, y, w, h = a["bbox"]
                boxes[a["track_id"]] = np.array([x, y, x + w, y + h])
        found = stream(cv2.imread(str(DATA / "posetrack18" / image["file_name"])), boxes)
        assert found.keys() == boxes.keys()
        for track, person in found.items():
            assert slots.setdefault(track, person.slot) == person.slot
            fresh += person.fresh
            crop = watched.frames[-1][person.slot : person.slot + 1]
            torch.testing.assert_close(person.output, dense(crop), atol=1e-4, rtol=1e-4)
            corners = boxes[track].reshape(2, 2) @ person.matrix[:, :2].T + person.matrix[:, 2]
            assert (corners > -0.01).all() and (corners < np.add(SIZE, 0.01)).all()
    assert sorted(slots.values()) == [0, 1, 2, 3]
    assert stream.person_frames == 60 and 4 <= fresh < 60
