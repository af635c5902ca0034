"""Which frames make a clip and a window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skippose.datasets.clip_index import frame_key, index_clips, window_frames


def video(name: str, numbers: list[int]) -> list[dict]:
    start = sum(map(ord, name)) * 1000
    return [dict(id=start + n, file_name=f"{name}/{n:03d}.jpg") for n in numbers]


def labels(images: list[dict], track: int | None, frames: list[int], **extra: object) -> list[dict]:
    """Annotations of one person in the images at the positions ``frames``."""
    made = []
    for t in frames:
        annotation = dict(id=images[t]["id"] * 10 + (track or 0), image_id=images[t]["id"], **extra)
        made.append(annotation if track is None else dict(annotation, track_id=track))
    return made


def keep(annotation: dict, image: dict) -> dict | None:
    return None if annotation.get("invalid") else dict(of=image["file_name"])


def shape(clips: list) -> dict[str, str]:
    """Clip id -> one letter per frame: x labelled, - not."""
    return {c.clip_id: "".join("x" if label else "-" for label in c.labelled) for c in clips}


def test_people_of_a_video_are_clips_of_their_own():
    images = video("v", [0, 1, 2, 3, 4, 5])
    annotations = labels(images, 0, [0, 1, 2, 3, 4, 5]) + labels(images, 7, [1, 3, 4])
    clips = index_clips(images, annotations, keep)
    assert shape(clips) == {"v#0": "xxxxxx", "v#7": "x-xx"}
    assert [i["file_name"] for i in clips[1].images] == [f"v/{n:03d}.jpg" for n in (1, 2, 3, 4)]


def test_a_clip_goes_on_over_frames_that_nobody_annotated():
    images = video("v", list(range(8)))
    annotations = labels(images, 0, [2, 4]) + labels(images, 1, [4, 5])
    assert shape(index_clips(images, annotations, keep)) == {"v#0": "--x-x", "v#1": "-xx--"}


def test_rejected_labels_are_unlabelled_frames_and_a_clip_needs_one_label():
    images = video("v", [0, 1, 2]) + video("w", [0, 1])
    annotations = labels(images, 0, [0, 2]) + labels(images, 0, [1, 3, 4], invalid=True)
    assert shape(index_clips(images, annotations, keep)) == {"v#0": "x-x"}


def test_crowds_are_no_people():
    images = video("v", [0, 1])
    annotations = labels(images, 0, [0, 1]) + labels(images, None, [0], iscrowd=1)
    assert shape(index_clips(images, annotations, keep)) == {"v#0": "xx"}


def test_frames_are_in_the_order_of_their_numbers():
    images = [dict(id=n, file_name=f"v/{n}.png") for n in (10, 9, 1, 2)]
    annotations = [dict(id=n, image_id=n) for n in (2, 1, 9, 10)]
    (clip,) = index_clips(images, annotations, keep)
    assert [i["id"] for i in clip.images] == [1, 2, 9, 10]
    assert frame_key("a2.png") < frame_key("a10.png")


def test_without_track_ids_a_video_of_one_person_is_one_clip():
    images = video("v", [0, 1, 2])
    assert shape(index_clips(images, labels(images, None, [0, 2]), keep)) == {"v#0": "x-x"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda i: labels(i, None, [0, 1]) + labels(i, None, [1]),
            r"v/000.jpg: annotation \d+ has no track_id. Found 3 of 3 .* and 1 images with several",
        ),
        (
            lambda i: labels(i, 0, [0]) + labels(i, None, [1]),
            r"v/001.jpg: annotation \d+ has no track_id. Found 1 of 2",
        ),
        (
            lambda i: labels(i, 3, [0]) + labels(i, 3, [0]),
            r"v/000.jpg: annotations \d+ and \d+ have the same track_id 3",
        ),
        (
            lambda i: [dict(id=5, image_id=-4, track_id=0)],
            "annotation 5 belongs to image -4, which the annotation file does not list",
        ),
    ],
)
def test_bad_annotations_are_named(make, message):
    images = video("v", [0, 1])
    with pytest.raises(ValueError, match=message):
        index_clips(images, make(images), keep)


def test_an_image_listed_twice_is_named():
    images = video("v", [0, 1]) + [dict(id=99, file_name="v/001.jpg")]
    with pytest.raises(ValueError, match="an image twice: v/001.jpg"):
        index_clips(images, [], keep)


def test_a_frame_id_that_occurs_twice_in_a_video_is_named():
    images = [dict(i, frame_id=7) for i in video("v", [0, 1]) + video("w", [0])]
    with pytest.raises(ValueError, match=r"'v/000.jpg', 'v/001.jpg'\] have the same frame_id 7"):
        index_clips(images, [], keep)
    images[1]["frame_id"] = 8  # another video may have it
    assert shape(index_clips(images, labels(images, 0, [0]), keep)) == {"v#0": "x-"}


@pytest.mark.parametrize(
    ("length", "clip_len", "stride", "windows"),
    [
        (8, 4, 1, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (6, 4, 1, [[0, 1, 2, 3], [2, 3, 4, 5]]),
        (3, 4, 1, [[0, 1, 2]]),
        (8, 3, 2, [[0, 2, 4], [2, 4, 6], [1, 3, 5], [3, 5, 7]]),
        (3, 2, 5, [[0], [1], [2]]),
    ],
)
def test_window_frames(length, clip_len, stride, windows):
    assert window_frames(length, clip_len, stride) == windows


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 6))
def test_windows_show_every_frame_and_repeat_few(length, clip_len, stride):
    windows = window_frames(length, clip_len, stride)
    assert {t for window in windows for t in window} == set(range(length))
    for window in windows:
        assert 1 <= len(window) <= clip_len
        assert all(b - a == stride for a, b in zip(window, window[1:], strict=False))
    assert sum(map(len, windows)) - length < clip_len * min(stride, length)


@pytest.mark.parametrize(
    ("max_gap", "expected"),
    [
        (None, {"v#0": "--x--x----x---"}),
        (4, {"v#0": "--x--x----x---"}),
        (3, {"v#0/1": "--x--x---", "v#0/2": "---x---"}),
        (1, {"v#0/1": "-x-", "v#0/2": "-x-", "v#0/3": "-x-"}),
        (0, {"v#0/1": "x", "v#0/2": "x", "v#0/3": "x"}),
    ],
)
def test_a_person_who_was_away_too_long_comes_back_as_another_clip(max_gap, expected):
    images = video("v", list(range(14)))
    clips = index_clips(images, labels(images, 0, [2, 5, 10]), keep, max_gap)
    assert shape(clips) == expected


def test_a_rejected_label_does_not_bridge_a_gap():
    images = video("v", list(range(6)))
    annotations = labels(images, 0, [0, 5]) + labels(images, 0, [2, 3], invalid=True)
    assert shape(index_clips(images, annotations, keep, 3)) == {"v#0/1": "x-", "v#0/2": "-x"}
    assert shape(index_clips(images, annotations, keep, 4)) == {"v#0": "x----x"}


def test_ids_that_occur_twice_are_named():
    images = [dict(id=1, file_name="v/0.jpg"), dict(id=1, file_name="v/1.jpg")]
    with pytest.raises(ValueError, match=r"'v/0.jpg', 'v/1.jpg'\] have the same id 1"):
        index_clips(images, [], keep)
    images = video("v", [0, 1])
    twice = [dict(id=5, image_id=image["id"], track_id=0) for image in images]
    with pytest.raises(ValueError, match=r"'v/000.jpg', 'v/001.jpg'\] have the same id 5"):
        index_clips(images, twice, keep)


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 3)), unique=True, min_size=1),
    st.one_of(st.none(), st.integers(0, 6)),
)
def test_every_label_is_in_exactly_one_clip(pairs, max_gap):
    images = video("v", list(range(20)))
    annotations = [
        dict(id=n, image_id=images[t]["id"], track_id=track) for n, (t, track) in enumerate(pairs)
    ]
    clips = index_clips(images, annotations, lambda a, image: a, max_gap)
    found = [i["id"] for clip in clips for i in clip.instances if i is not None]
    assert sorted(found) == [a["id"] for a in annotations]
    assert len({clip.clip_id for clip in clips}) == len(clips)
    if max_gap is not None:
        assert all("-" * (max_gap + 1) not in letters for letters in shape(clips).values())
