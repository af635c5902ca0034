"""Which frames make up a person's clip, read from a COCO-style annotation file of videos."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np


@dataclass
class Clip:
    """All frames of one person in one video.

    Attributes:
        clip_id: ``<video directory>#<track id>``, and ``/<n>`` for the n-th part of a divided
            track.
        images: The annotation file's image entries, in the order of the video.
        instances: For each image, what mmpose's loader makes of the person's annotation; None
            where the frame is unlabelled.
    """

    clip_id: str
    images: list[dict] = field(default_factory=list)
    instances: list[dict | None] = field(default_factory=list)

    @property
    def labelled(self) -> list[bool]:
        """For each frame whether it has a label."""
        return [instance is not None for instance in self.instances]


def index_clips(
    images: list[dict],
    annotations: list[dict],
    parse: Callable[[dict, dict], dict | None],
    max_gap: int | None = None,
) -> list[Clip]:
    """Groups an annotation file's images and annotations into clips.

    A clip is a video (a directory of images) and a track id. It runs from the person's first to the
    last annotated frame, and on over adjoining frames in which nobody is annotated at all: there
    the person may well be. In between, a frame without a label of this person (an occlusion, a
    frame that nobody annotated, an annotation that mmpose's loader rejects) is part of the clip,
    unlabelled. A clip without any label is left out.

    With ``max_gap`` a person who is away for longer comes back as another clip: more than so many
    frames between two labels divide the track (``<video>#<track id>/1``, ``.../2``, ...), and a
    clip goes on over at most so many frames before its first and after its last label.

    Without track ids a video must have at most one annotation in every image; it is then one clip
    with the track id 0.

    Args:
        images: COCO image entries.
        annotations: COCO annotation entries; crowds are ignored.
        parse: (annotation, image) to a data info, or None if the label is not valid.
        max_gap: Unlabelled frames that a clip may have in a row; None: any number.

    Raises:
        ValueError: Track ids are missing where a video has several people, or only some are
            missing, or one person has two annotations in an image; an annotation of an image that
            the file does not list; an image listed twice; an id that two images or two annotations
            have; a frame_id that two images of one video have. The message names the file.
    """
    if twice := _twice(image["file_name"] for image in images):
        raise ValueError(f"the annotation file lists an image twice: {twice[0]}")
    if twice := _twice(image["id"] for image in images):
        same = [image["file_name"] for image in images if image["id"] == twice[0]]
        raise ValueError(f"images {same} have the same id {twice[0]}")
    by_id = {image["id"]: image for image in images}
    by_image: dict = defaultdict(list)
    for annotation in annotations:
        if annotation["image_id"] not in by_id:
            raise ValueError(
                f"annotation {annotation['id']} belongs to image {annotation['image_id']}, which "
                "the annotation file does not list"
            )
        if not annotation.get("iscrowd"):
            by_image[annotation["image_id"]].append(annotation)

    clips: list[Clip] = []
    for video, frames in videos_of(images).items():
        if twice := _twice(image["frame_id"] for image in frames if "frame_id" in image):
            same = [image["file_name"] for image in frames if image.get("frame_id") == twice[0]]
            raise ValueError(f"images {same} have the same frame_id {twice[0]}")
        tracks = _tracks(video, frames, by_image)
        empty = [not by_image[image["id"]] for image in frames]
        for track, members in sorted(tracks.items(), key=lambda item: str(item[0])):
            instances = [
                parse(members[image["id"]], image) if image["id"] in members else None
                for image in frames
            ]
            if max_gap is None:
                parts = [[t for t, image in enumerate(frames) if image["id"] in members]]
            else:
                parts = _parts([t for t, i in enumerate(instances) if i is not None], max_gap)
            for number, part in enumerate(parts, 1):
                first, last = _extend(part[0], part[-1], empty, max_gap)
                clip = Clip(
                    f"{video}#{track}" + (f"/{number}" if len(parts) > 1 else ""),
                    frames[first : last + 1],
                    instances[first : last + 1],
                )
                if any(clip.labelled):
                    clips.append(clip)
    counted = [a for members in by_image.values() for a in members]
    if twice := _twice(a["id"] for a in counted):
        same = [by_id[a["image_id"]]["file_name"] for a in counted if a["id"] == twice[0]]
        raise ValueError(f"annotations in {same} have the same id {twice[0]}")
    return clips


def videos_of(images: list[dict]) -> dict[str, list[dict]]:
    """Directory -> its image entries, in the order of their numbers."""
    videos: dict[str, list[dict]] = defaultdict(list)
    for image in images:
        videos[str(PurePosixPath(image["file_name"]).parent)].append(image)
    for frames in videos.values():
        frames.sort(key=lambda image: frame_key(image["file_name"]))
    return videos


def _twice(values: Iterable) -> list:
    """The values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def _parts(labelled: list[int], max_gap: int) -> list[list[int]]:
    """Cuts the positions of a person's labels where more than ``max_gap`` frames lie between."""
    cuts = np.flatnonzero(np.diff(labelled) > max_gap + 1) + 1
    return [part.tolist() for part in np.split(np.array(labelled, int), cuts) if len(part)]


def _extend(first: int, last: int, empty: list[bool], max_gap: int | None) -> tuple[int, int]:
    """Goes on over adjoining frames that nobody annotated, ``max_gap`` of them at most."""
    reach = len(empty) if max_gap is None else max_gap
    start, end = max(0, first - reach), min(len(empty) - 1, last + reach)
    while first > start and empty[first - 1]:
        first -= 1
    while last < end and empty[last + 1]:
        last += 1
    return first, last


def _tracks(video: str, frames: list[dict], by_image: dict) -> dict:
    """Track id -> image id -> annotation, for one video."""
    found = [a for image in frames for a in by_image[image["id"]]]
    missing = [a for a in found if a.get("track_id") is None]
    crowded = [image for image in frames if len(by_image[image["id"]]) > 1]
    if missing and (crowded or len(missing) < len(found)):
        image = next(i for i in frames if i["id"] == missing[0]["image_id"])
        raise ValueError(
            f"{image['file_name']}: annotation {missing[0]['id']} has no track_id. Found "
            f"{len(missing)} of {len(found)} annotations of the video without one and "
            f"{len(crowded)} images with several people; expected a track_id everywhere, or "
            "nowhere and one person"
        )
    tracks: dict = defaultdict(dict)
    for image in frames:
        for annotation in by_image[image["id"]]:
            members = tracks[annotation.get("track_id", 0) if not missing else 0]
            if image["id"] in members:
                raise ValueError(
                    f"{image['file_name']}: annotations {members[image['id']]['id']} and "
                    f"{annotation['id']} have the same track_id {annotation.get('track_id')}"
                )
            members[image["id"]] = annotation
    return tracks


def frame_key(file_name: str) -> tuple:
    """Sorts file names as people do: ``2.png`` before ``10.png``."""
    parts = re.split(r"(\d+)", PurePosixPath(file_name).name)
    return tuple((int(part), part) if part.isdigit() else (-1, part) for part in parts)


def frame_number(file_name: str) -> int | None:
    """The last number in a file's name, or None."""
    numbers = re.findall(r"\d+", PurePosixPath(file_name).stem)
    return int(numbers[-1]) if numbers else None


def has_gap(clip: Clip) -> bool:
    """Whether the frame numbers of a clip's files do not rise evenly."""
    numbers = [frame_number(image["file_name"]) for image in clip.images]
    if None in numbers:
        return False
    return len(set(np.diff(np.array(numbers)).tolist())) > 1


def window_frames(length: int, clip_len: int, stride: int) -> list[list[int]]:
    """The frames of each training window of a clip.

    The clip is divided into its ``stride`` interleaved sequences, and each of them into windows of
    ``clip_len`` frames that follow one another, so that an epoch sees (almost) every frame once;
    the last window of a sequence is moved back to end with it. A sequence shorter than ``clip_len``
    is one window, as short as it is.

    Args:
        length: Frames of the clip.
        clip_len: Frames of a window.
        stride: Frames from one of a window's frames to its next.
    """
    windows = []
    for phase in range(min(stride, length)):
        sequence = list(range(phase, length, stride))
        if len(sequence) <= clip_len:
            windows.append(sequence)
            continue
        starts = list(range(0, len(sequence) - clip_len + 1, clip_len))
        if starts[-1] + clip_len < len(sequence):
            starts.append(len(sequence) - clip_len)
        windows += [sequence[start : start + clip_len] for start in starts]
    return windows
