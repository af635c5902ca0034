"""Merge PoseTrack18's per-video annotations to mmpose's files, and check what is on disk.

Reads, below ``--src``::

    annotations/{train,val,test}/<video>.json    one file a video, as distributed
    images/{train,val,test}/<video>/000000.jpg   the frames that they list

and writes, below ``--out``::

    annotations/posetrack18_{train,val,test}.json   all videos of a set
    annotations/{train,val,test}/<video>.json       copies, which PoseTrack18Metric reads
    images                                          a link to ``--src``'s, if that is another root

Rules:

- All images of a video are kept, also those that are not labelled (``is_labeled`` false): they are
  input without loss. Annotations are kept as they are; an annotation without ``bbox`` gets the box
  of its visible joints, enlarged by 1.3 as the data set's authors do, and one that has neither a
  box nor a visible joint is left out and counted. ``iscrowd`` is false where nothing says more.
- A frame that is listed but absent, empty or cut off; a frame without ``width`` and ``height`` that
  cannot be read; an id that two frames or two annotations share; two annotations with one track id
  in a frame; an annotation of a frame that the file does not list, without a track id, with a box
  that is not four numbers, or with another number of joints than the file's category has; a file
  whose category lists no joints: all these make the *video* bad.
- With any bad video no file is written and the exit status is 1, unless ``--skip-bad`` leaves these
  videos out. That needs another root than ``--src``, where PoseTrack18Metric would go on to find
  their annotations, and count their people as missed.
- A frame whose ``file_name`` leads out of ``--src`` makes the video bad too. A file that is there
  already and that this tool has not written, by the records in ``--out``'s ``.made``, is not
  written over: the conversion stops, with nothing written.

Example::

    python tools/dataset_converters/posetrack18.py --src /path/to/posetrack18 --out data/posetrack18
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from skippose.files import NameRefused, Output, OutputRefused, plain_name, plain_path

TOOL = "tools/dataset_converters/posetrack18.py"
SETS = ("train", "val", "test")
ENLARGE = 1.3
JPEG_END = b"\xff\xd9"
CONSOLE = Console()


class ConversionError(Exception):
    """The input is not what PoseTrack18's layout promises; the message names the file."""


@dataclass
class Video:
    """One video's entries as they go to the merged file, and what was found wrong with it."""

    path: Path
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    categories: list[dict] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    boxed: int = 0
    dropped: int = 0


@dataclass
class Summary:
    """What a conversion did; printed at the end."""

    rows: list[tuple[str, int, int, int, int, int]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    bad_videos: int = 0
    boxed: int = 0
    dropped: int = 0
    written: list[Path] = field(default_factory=list)


def read_video(path: Path, src: Path) -> Video:
    """Reads and checks one video's annotation file.

    Raises:
        ConversionError: the file is no JSON or lacks COCO's entries.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: unreadable ({error})") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ConversionError(
                f"{path}: found no list {key!r}; expected PoseTrack18's JSON of 2018 (images, "
                "annotations, categories)"
            )
    video = Video(path, content["images"], categories=content["categories"])
    for image in video.images:
        video.bad += check_frame(image, path, src)
    listed = {image.get("id") for image in video.images}
    for what, values in (
        ("images", [image.get("id") for image in video.images]),
        ("annotations", [a.get("id") for a in content["annotations"]]),
    ):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            video.bad.append(f"{path}: {len(twice)} ids of {what} occur twice, {twice[0]} first")
    people = Counter((a.get("image_id"), a.get("track_id")) for a in content["annotations"])
    for (image_id, track_id), count in people.items():
        if image_id not in listed:
            video.bad.append(f"{path}: {count} annotations of image {image_id}, not listed")
        elif track_id is None:
            video.bad.append(f"{path}: {count} annotations without track_id in image {image_id}")
        elif count > 1:
            video.bad.append(f"{path}: track_id {track_id} {count} times in image {image_id}")
    joints = len(video.categories[0].get("keypoints", [])) if video.categories else 0
    if not joints:
        video.bad.append(f"{path}: its category lists no joints")
        return video
    for annotation in content["annotations"]:
        found = len(annotation.get("keypoints") or [])
        if found not in (0, 3 * joints):
            video.bad.append(
                f"{path}: annotation {annotation.get('id')} has {found} numbers as keypoints, "
                f"expected {3 * joints}"
            )
            continue
        box = annotation.get("bbox")
        if box and not (len(box) == 4 and np.isfinite(box).all()):
            video.bad.append(
                f"{path}: annotation {annotation.get('id')} has the box {box}, expected x, y, "
                "width and height"
            )
            continue
        box = box or joints_box(annotation.get("keypoints") or [])
        if not box or not found:
            video.dropped += 1
            continue
        video.boxed += not annotation.get("bbox")
        video.annotations.append({"iscrowd": False, "category_id": 1, **annotation, "bbox": box})
    return video


def check_frame(image: dict, listed_in: Path, src: Path) -> list[str]:
    """What is wrong with a frame that a file lists; fills in its ``width`` and ``height``."""
    name = image.get("file_name")
    if not name or image.get("id") is None:
        return [f"an image without file_name or id: {sorted(image)}"]
    try:
        path = src / plain_path(name, f"{listed_in}, image {image['id']}")
    except NameRefused as error:
        return [str(error)]
    if not path.is_file():
        return [f"{path}: listed, but missing"]
    if path.suffix.lower() in (".jpg", ".jpeg"):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 1024))
            if JPEG_END not in stream.read():
                return [f"{path}: empty or cut off ({path.stat().st_size} bytes)"]
    if not (image.get("width") and image.get("height")):
        pixels = cv2.imread(str(path))
        if pixels is None:
            return [f"{path}: not an image"]
        image["height"], image["width"] = pixels.shape[:2]
    return []


def joints_box(keypoints: list[float]) -> list[float] | None:
    """The box ``[x, y, w, h]`` around the visible joints, enlarged; None without an area."""
    points = np.reshape(keypoints, (-1, 3))
    points = points[points[:, 2] > 0, :2]
    if len(points) < 2:
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    size = (high - low) * ENLARGE
    corner = (low + high - size) / 2
    return [*corner.tolist(), *size.tolist()] if (size > 0).all() else None


def convert(src: Path, out: Path, skip_bad: bool = False) -> Summary:
    """Merges every set that ``src`` has.

    Args:
        src: PoseTrack18's root.
        out: The new data root; may be ``src`` itself.
        skip_bad: Leave bad videos out instead of refusing to write.

    Returns:
        What was done. ``written`` is empty if bad videos kept the files from being written.

    Raises:
        ConversionError: ``src`` has no annotation files, or one of them is no such file.
        OutputRefused: a file is in the way that this tool has not written.
    """
    src, out = src.resolve(), out.resolve()
    sets = {name: sorted((src / "annotations" / name).glob("*.json")) for name in SETS}
    if not any(sets.values()):
        raise ConversionError(
            f"{src}: found no annotations/{{train,val,test}}/<video>.json; expected the root of "
            "PoseTrack18 as distributed"
        )
    if skip_bad and out == src:
        raise ConversionError(
            f"{out}: --skip-bad needs another root than --src, where the left out videos' "
            "annotations stay and PoseTrack18Metric counts them as missed"
        )
    summary = Summary()
    merged: dict[str, list[Video]] = {}
    for name, paths in sets.items():
        if not paths:
            continue
        videos = [read_video(p, src) for p in track(paths, name, console=CONSOLE)]
        summary.bad += [line for video in videos for line in video.bad]
        summary.bad_videos += sum(bool(video.bad) for video in videos)
        merged[name] = [video for video in videos if not video.bad]
        check_unique(name, merged[name])
    summary.boxed = sum(v.boxed for videos in merged.values() for v in videos)
    summary.dropped = sum(v.dropped for videos in merged.values() for v in videos)
    for name, videos in merged.items():
        images = [image for video in videos for image in video.images]
        annotations = [a for video in videos for a in video.annotations]
        labelled = len({a["image_id"] for a in annotations})
        people = sum(len({a["track_id"] for a in video.annotations}) for video in videos)
        summary.rows.append((name, len(videos), len(images), labelled, people, len(annotations)))
    if summary.bad and not skip_bad:
        return summary
    output = Output(out, TOOL)
    files: dict[Path, bytes] = {}
    for name, videos in merged.items():
        if not videos:
            continue
        content = dict(
            categories=videos[0].categories,
            images=[image for video in videos for image in video.images],
            annotations=[a for video in videos for a in video.annotations],
        )
        for video in videos:
            video_name = plain_name(video.path.name, str(video.path.parent))
            if video.path.parent != out / "annotations" / name:
                copy = output.path("annotations", name, video_name)
                files[copy] = video.path.read_bytes()
        path = output.path("annotations", f"posetrack18_{name}.json")
        files[path] = json.dumps(content).encode()
        summary.written.append(path)
    for path, text in files.items():
        output.check(path, text)  # all of them before the first is written
    for path, text in files.items():
        output.write(path, text)
    images_there = out / "images"
    if summary.written and not images_there.exists():
        images_there.symlink_to(src / "images", target_is_directory=True)
    return summary


def check_unique(name: str, videos: list[Video]) -> None:
    """Ids must not occur in two videos of a set: their files are merged.

    Raises:
        ConversionError: Names the two files.
    """
    for kind in ("images", "annotations"):
        owner: dict = {}
        for video in videos:
            for entry in getattr(video, kind):
                other = owner.setdefault(entry.get("id"), video)
                if other is not video:
                    raise ConversionError(
                        f"{video.path} and {other.path} both have {kind} with the id "
                        f"{entry.get('id')}; they cannot be merged"
                    )


def report(summary: Summary) -> None:
    """Prints what was merged and what is bad."""
    table = Table("set", "videos", "frames", "labelled", "tracks", "person-frames")
    for row in summary.rows:
        table.add_row(*map(str, row))
    CONSOLE.print(table)
    CONSOLE.print(
        f"{summary.boxed} boxes made from joints; {summary.dropped} annotations without box and "
        f"joints left out; {summary.bad_videos} bad videos"
    )
    for line in summary.bad[:20]:
        CONSOLE.print(f"  bad: {line}", markup=False, style="red")
    if len(summary.bad) > 20:
        CONSOLE.print(f"  ... and {len(summary.bad) - 20} more")
    for path in summary.written:
        CONSOLE.print(f"written: {path}", markup=False)


def main(argv: list[str] | None = None) -> int:
    """Runs the converter; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True, help="PoseTrack18's root")
    parser.add_argument("--out", type=Path, required=True, help="the new data root")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad videos out")
    args = parser.parse_args(argv)
    try:
        summary = convert(args.src, args.out, args.skip_bad)
    except (ConversionError, NameRefused, OutputRefused) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(summary)
    if summary.bad and not args.skip_bad:
        print(
            f"error: {summary.bad_videos} bad videos (listed above); no file was written. Repair "
            "them, or leave them out with --skip-bad.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
