"""Where people are: given, followed, tracked, detected."""

from pathlib import Path

import numpy as np
import pytest

from skippose.video import BoxError, Detected, FirstBox, Tracks, WholeFrame
from skippose.video.boxes import follow_pose, person_detector

IMAGE = np.zeros((100, 200, 3), np.uint8)
SURE = np.ones(4)


def test_the_whole_frame() -> None:
    assert WholeFrame().find(3, IMAGE)[0].tolist() == [0, 0, 200, 100]


def test_the_first_box_follows_the_pose() -> None:
    boxes = FirstBox((20, 20, 40, 60))
    boxes.begin((200, 100))
    assert boxes.find(0, IMAGE)[0].tolist() == [20, 20, 60, 80]
    joints = np.array([[50.0, 20], [90, 20], [50, 80], [90, 80]])
    boxes.saw({0: (joints, SURE)})
    assert boxes.find(1, IMAGE)[0].tolist() == pytest.approx([44, 11, 96, 89])
    boxes.saw({})
    assert boxes.find(2, IMAGE)[0].tolist() == pytest.approx([44, 11, 96, 89])
    boxes.begin((200, 100))
    assert boxes.find(0, IMAGE)[0].tolist() == [20, 20, 60, 80], "a new video"


def test_a_box_that_is_not_to_follow_stays() -> None:
    boxes = FirstBox((20, 20, 40, 60), follow=False)
    boxes.begin((200, 100))
    boxes.saw({0: (np.array([[50.0, 20], [90, 80]]), np.ones(2))})
    assert boxes.find(1, IMAGE)[0].tolist() == [20, 20, 60, 80]


@pytest.mark.parametrize(
    ("joints", "scores"),
    [
        ([[50, 20], [90, 20], [50, 80], [90, 80]], [0.9, 0.1, 0.1, 0.1]),  # unsure
        ([[50, 50], [51, 50], [50, 51], [51, 51]], [0.9] * 4),  # in a heap
    ],
)
def test_a_lost_pose_leaves_the_box(joints: list, scores: list) -> None:
    box = np.array([20, 20, 60, 80], np.float32)
    assert follow_pose(box, np.array(joints, float), np.array(scores), (200, 100)) is box


def test_a_box_stays_in_the_frame() -> None:
    box = np.array([0, 0, 60, 80], np.float32)
    joints = np.array([[-10.0, 5], [60, 5], [-10, 95], [60, 98]])
    found = follow_pose(box, joints, SURE, (200, 100))
    assert found[0] == 0 and found[1] == 0 and found[3] == 100


@pytest.mark.parametrize("bbox", [(10, 10, 0, 20), (10, 10, 20, -1), (10, 10, np.nan, 5)])
def test_a_box_without_area(bbox: tuple) -> None:
    with pytest.raises(BoxError, match="width and height must be above 0"):
        FirstBox(bbox)


@pytest.mark.parametrize("bbox", [(200, 10, 20, 20), (10, 100, 5, 5), (-30, 10, 30, 20)])
def test_a_box_outside_of_the_frame(bbox: tuple) -> None:
    with pytest.raises(BoxError, match="lies outside of the frame of 200x100 pixels"):
        FirstBox(bbox).begin((200, 100))


def test_part_of_a_box_may_lie_outside() -> None:
    FirstBox((-30, -20, 60, 200)).begin((200, 100))


def tracks(tmp_path: Path, text: str) -> Tracks:
    path = tmp_path / "tracks.txt"
    path.write_text(text)
    return Tracks(path)


def test_a_trackers_file(tmp_path: Path) -> None:
    found = tracks(
        tmp_path, "# frame,id,...\n\n3,7,50,10,20,40,0.9,-1\n1,7,10,10,20,40\n1,8,90,10,20,40,1\n"
    )
    found.begin((200, 100))
    assert found.capacity == 2
    assert {t: b.tolist() for t, b in found.find(0, IMAGE).items()} == {
        7: [10, 10, 30, 50],
        8: [90, 10, 110, 50],
    }
    assert found.find(1, IMAGE) == {}
    assert list(found.find(2, IMAGE)) == [7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,7,10,10,20", "line 1: expected frame,id,x,y,width,height"),
        ("1,7,10,10,20,40\n0,7,10,10,20,40", "line 2: expected .* frames from 1"),
        ("1,7,10,ten,20,40", "line 1: expected .*ten"),
        ("1.5,7,10,10,20,40", "line 1: expected"),
        ("1,7,10,10,20,40\n\n1,7,11,10,20,40", "line 3: track 7 is in frame 1 twice"),
        ("1,7,10,10,0,40", "line 1: width and height must be above 0"),
        ("# nothing\n", "no boxes there"),
    ],
)
def test_bad_tracks(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BoxError, match=message):
        tracks(tmp_path, text)


def test_tracks_outside_of_the_frame_and_no_file(tmp_path: Path) -> None:
    found = tracks(tmp_path, "1,7,10,10,20,40\n4,7,210,10,20,40\n")
    with pytest.raises(BoxError, match=r"tracks\.txt: track 7 in frame 4: x 210 to 230"):
        found.begin((200, 100))
    with pytest.raises(BoxError, match="no such tracks file"):
        Tracks(tmp_path / "none.txt")


def test_detections_keep_their_tracks_and_follow_in_between() -> None:
    seen = {
        0: [[10, 10, 40, 60], [100, 10, 140, 80]],
        2: [[104, 12, 144, 82], [14, 10, 44, 60]],  # in another order
        4: [[160, 10, 190, 60]],
    }
    asked = []

    def detector(image: np.ndarray) -> np.ndarray:
        asked.append(int(image[0, 0, 0]))
        return np.array(seen[asked[-1]], float)

    boxes = Detected(detector, capacity=2, every=2)
    boxes.begin((200, 100))
    found = []
    for index in range(5):
        image = np.full((100, 200, 3), index, np.uint8)
        found.append({t: b.tolist() for t, b in boxes.find(index, image).items()})
        joints = np.array([[20.0, 10], [40, 10], [20, 60], [40, 60]])
        boxes.saw({1: (joints, SURE)} if index == 0 else {})
    assert asked == [0, 2, 4]
    assert found[0] == {0: [100, 10, 140, 80], 1: [10, 10, 40, 60]}, "the largest first"
    assert found[1][1] == pytest.approx([17, 2.5, 43, 67.5]), "followed the pose"
    assert found[2] == {0: [104, 12, 144, 82], 1: [14, 10, 44, 60]}
    assert found[4] == {2: [160, 10, 190, 60]}, "somebody new"


def test_no_more_people_than_slots() -> None:
    many = np.array([[0, 0, 10 + n, 10] for n in range(6)], float)
    boxes = Detected(lambda image: many, capacity=3)
    assert len(boxes.find(0, IMAGE)) == 3
    assert Detected(lambda image: np.empty((0, 4))).find(0, IMAGE) == {}


def test_without_mmdet_it_says_how_to_give_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skippose.video.boxes.find_spec", lambda name: None)
    with pytest.raises(BoxError, match="--bbox .*--tracks .*--whole-frame"):
        person_detector()
