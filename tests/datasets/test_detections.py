"""Detections without track ids become clips by a stated rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skippose.datasets.detections import iou, link_detections

IMAGES = [dict(id=t, file_name=f"v/{t:03d}.jpg") for t in range(8)]


def detection(frame: int, x: float, y: float = 0.0, size: float = 10.0) -> dict:
    return dict(img_id=frame, bbox=np.array([[x, y, x + size, y + size]], np.float32), x=x)


def tracks(clips: list) -> dict[str, list]:
    """Clip id -> the detections' x, None where there is none."""
    return {c.clip_id: [i and i["x"] for i in c.instances] for c in clips}


def test_overlap_links_and_a_jump_begins_a_track():
    found = [detection(t, x) for t, x in enumerate([0, 2, 4, 50, 52])]
    assert tracks(link_detections(IMAGES, found)) == {"v#d0": [0, 2, 4], "v#d1": [50, 52]}


def test_the_highest_overlap_is_matched_first():
    found = [detection(0, 0), detection(0, 6), detection(1, 5), detection(1, 1)]
    assert tracks(link_detections(IMAGES, found)) == {"v#d0": [0, 1], "v#d1": [6, 5]}


def test_a_gap_is_unlabelled_and_a_long_one_ends_the_track():
    found = [detection(t, 0) for t in (0, 3, 7)]
    assert tracks(link_detections(IMAGES, found, max_gap=2)) == {
        "v#d0": [0, None, None, 0],
        "v#d1": [0],
    }
    (clip,) = link_detections(IMAGES, found, max_gap=3)
    assert [image["id"] for image in clip.images] == list(range(8))


def test_videos_are_linked_apart():
    images = [*IMAGES, dict(id=100, file_name="w/000.jpg")]
    clips = link_detections(images, [detection(7, 0), detection(100, 0)])
    assert [clip.clip_id for clip in clips] == ["v#d0", "w#d0"]


def test_iou():
    a = np.array([[0, 0, 2, 2]], float)
    b = np.array([[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6]], float)
    assert iou(a, b)[0] == pytest.approx([1 / 3, 1, 0])


@given(
    st.lists(st.tuples(st.integers(0, 7), st.floats(0, 30)), max_size=40),
    st.floats(0.05, 1),
    st.integers(0, 4),
)
def test_every_detection_is_in_exactly_one_clip(pairs, min_iou, max_gap):
    found = [detection(t, x) for t, x in pairs]
    clips = link_detections(IMAGES, found, min_iou, max_gap)
    linked = [i for clip in clips for i in clip.instances if i is not None]
    assert sorted(map(id, linked)) == sorted(map(id, found))
    for clip in clips:
        assert clip.labelled[0] and clip.labelled[-1]
        pairs = zip(clip.instances, clip.images, strict=True)
        assert all(i["img_id"] == image["id"] for i, image in pairs if i)
