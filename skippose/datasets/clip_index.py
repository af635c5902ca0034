"""Which frames make up a person's clip, read from a COCO-style annotation file of videos."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np


@dataclass
class Clip:
    """All frames of one person in one video.

    Attributes:
        clip_id: ``<video directory>#<track id>``.
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
    images: list[dict], annotations: list[dict], parse: Callable[[dict, dict], dict | None]
) -> list[Clip]:
    """Groups an annotation file's images and annotations into clips.

    A clip is a video (a directory of images) and a track id. It runs from the person's first to the
    last annotated frame, and on over adjoining frames in which nobody is annotated at all: there
    the person may well be. In between, a frame without a label of this person (an occlusion, a
    frame that nobody annotated, an annotation that mmpose's loader rejects) is part of the clip,
    unlabelled. A clip without any label is left out.

    Without track ids a video must have at most one annotation in every image; it is then one clip
    with the track id 0.

    Args:
        images: COCO image entries.
        annotations: COCO annotation entries; crowds are ignored.
        parse: (annotation, image) to a data info, or None if the label is not valid.

    Raises:
        ValueError: Track ids are missing where a video has several people, or only some are
            missing, or one person has two annotations in an image; an annotation of an image that
            the file does not list; an image listed twice. The message names the file.
    """
    names = [image["file_name"] for image in images]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the annotation file lists an image twice: {twice[0]}")
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

    videos: dict[str, list[dict]] = defaultdict(list)
    for image in images:
        videos[str(PurePosixPath(image["file_name"]).parent)].append(image)

    clips: list[Clip] = []
    for video, frames in videos.items():
        frames.sort(key=lambda image: frame_key(image["file_name"]))
        tracks = _tracks(video, frames, by_image)
        empty = [not by_image[image["id"]] for image in frames]
        for track, members in sorted(tracks.items(), key=lambda item: str(item[0])):
            present = [t for t, image in enumerate(frames) if image["id"] in members]
            first, last = present[0], present[-1]
            while first > 0 and empty[first - 1]:
                first -= 1
            while last + 1 < len(frames) and empty[last + 1]:
                last += 1
            clip = Clip(f"{video}#{track}")
            for image in frames[first : last + 1]:
                annotation = members.get(image["id"])
                clip.images.append(image)
                clip.instances.append(parse(annotation, image) if annotation else None)
            if any(clip.labelled):
                clips.append(clip)
    return clips


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
