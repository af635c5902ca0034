"""Convert JHMDB's own layout to PNG frames and mmpose's annotation files.

Reads, below ``--src``::

    Rename_Images/<class>/<clip>/00001.png ...   frames, or else
    ReCompress_Videos/<class>/<clip>.avi         the videos
    joint_positions/<class>/<clip>/joint_positions.mat
    puppet_mask/<class>/<clip>/puppet_mask.mat
    splits/<class>_test_split{1,2,3}.txt

and writes, below ``--out``::

    Rename_Images/<class>/<clip>/00001.png ...   numbered from 1, five digits
    annotations/Sub{1,2,3}_{train,test}.json     ``file_name`` relative to ``--out``

Keypoints and boxes stay 1-based, as the data set has them: mmpose's ``JhmdbDataset`` subtracts
one. A box is the 1-based bounding box ``[x, y, w, h]`` of the puppet mask with ``w = xmax - xmin
+ 1``. A clip has the same ids in all splits, whatever other clips are present.

Rules:

- A clip that a split names but that has neither frames nor a video is counted and reported.
- The annotation decides how many frames a clip has. Fewer frames than that (a truncated video, a
  missing or unreadable image), a ``.mat`` file that is missing or unreadable, or masks and joints
  that disagree make the clip *bad*. More frames than that: the surplus is left out and reported.
- A frame whose puppet mask is empty or whose joints are not finite is written as unlabelled
  (``is_labeled`` false, no annotation) and counted.
- With any bad clip no annotation file is written and the exit status is 1, unless ``--skip-bad``
  says to leave those clips out.
- A clip's folder and an annotation file appear under their names only when they are complete, so
  an interrupted run is simply started again; clips already there are not decoded twice.
- The name of a class or clip that is no plain name (``../other``) stops the conversion. What is
  there already and is not as this tool has made it, by the records in ``--out``'s ``.made``, is
  neither removed nor written over: the conversion stops and names it.

Example::

    python tools/dataset_converters/jhmdb.py --src data/JHMDB --out data/jhmdb
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.io import loadmat

from skippose.files import NameRefused, Output, OutputRefused, plain_name

TOOL = "tools/dataset_converters/jhmdb.py"
KEYPOINTS = [
    'neck', 'belly', 'head', 'right_shoulder', 'left_shoulder', 'right_hip', 'left_hip',
    'right_elbow', 'left_elbow', 'right_knee', 'left_knee', 'right_wrist', 'left_wrist',
    'right_ankle', 'left_ankle',
]  # fmt: skip
SKELETON = [
    [1, 3], [1, 4], [1, 5], [1, 2], [4, 8], [8, 12], [5, 9], [9, 13],
    [2, 6], [2, 7], [6, 10], [10, 14], [7, 11], [11, 15],
]  # fmt: skip
CATEGORY = dict(supercategory="person", id=1, name="person", keypoints=KEYPOINTS, skeleton=SKELETON)
SPLITS = (1, 2, 3)
SUBSETS = {"1": "train", "2": "test"}  # the number behind a clip's name in a split file


class ConversionError(Exception):
    """The input is not what JHMDB's layout promises; the message names the file."""


class BadClip(ConversionError):
    """One clip cannot be converted; the others can."""


@dataclass(frozen=True, order=True)
class Clip:
    """One video: its action class, its name, and its place among all clips of the splits."""

    action: str
    name: str
    number: int

    @property
    def folder(self) -> Path:
        """Where the clip lies below a folder of one kind (``<class>/<clip>``)."""
        return Path(self.action) / self.name


@dataclass
class Labels:
    """One clip's annotation: T frames of 15 joints and the puppet's box.

    Attributes:
        joints: (T, 15, 2) pixels, 1-based.
        boxes: (T, 4) ``x, y, w, h``, 1-based; NaN where the mask is empty.
        size: height and width of the masks in pixels.
    """

    joints: np.ndarray
    boxes: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.joints)

    def labelled(self, t: int) -> bool:
        """Whether frame ``t`` (0-based) has a box and joints."""
        return bool(np.isfinite(self.boxes[t]).all() and np.isfinite(self.joints[t]).all())


@dataclass
class Summary:
    """What a conversion did; printed at the end."""

    absent: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    clips: int = 0
    frames: int = 0
    unlabelled: int = 0
    written: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_splits(folder: Path) -> dict[int, dict[tuple[str, str], str]]:
    """Read ``<class>_test_split<k>.txt``: for each split, (class, clip) -> ``train`` or ``test``.

    Raises:
        ConversionError: no split file at all, a line that is not ``<clip>.avi 1|2``, or a class or
            clip whose name is no plain name.
    """
    splits: dict[int, dict[tuple[str, str], str]] = {}
    for k in SPLITS:
        for path in sorted(folder.glob(f"*_test_split{k}.txt")):
            action = _name(path.name[: -len(f"_test_split{k}.txt")], f"{path}, class")
            for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if not line.strip():
                    continue
                name, _, subset = line.strip().rpartition(" ")
                if subset not in SUBSETS or not name.strip().endswith(".avi"):
                    raise ConversionError(
                        f"{path}, line {n}: found {line!r}, expected '<clip>.avi 1' (train) "
                        "or '<clip>.avi 2' (test)"
                    )
                clip = _name(name.strip()[: -len(".avi")], f"{path}, line {n}")
                splits.setdefault(k, {})[action, clip] = SUBSETS[subset]
    if not splits:
        raise ConversionError(f"{folder}: found no <class>_test_split{{1,2,3}}.txt")
    return splits


def _name(name: str, where: str) -> str:
    try:
        return plain_name(name, where)
    except NameRefused as error:
        raise ConversionError(str(error)) from error


def read_mat(path: Path, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Read array ``key`` of a ``.mat`` file and check its shape (``None``: any length).

    Raises:
        BadClip: the file is missing, unreadable, lacks the array, or the shape is another.
    """
    if not path.is_file():
        raise BadClip(f"{path}: missing")
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise BadClip(f"{path}: unreadable ({type(error).__name__}: {error})") from error
    if key not in content:
        found = sorted(k for k in content if not k.startswith("__"))
        raise BadClip(f"{path}: found arrays {found}, expected {key!r}")
    array = np.asarray(content[key])
    if array.ndim == len(shape) - 1:
        array = array[..., None]  # MATLAB drops a last dimension of one frame
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise BadClip(f"{path}: {key} has shape {array.shape}, expected {shape}")
    return array


def read_labels(src: Path, clip: Clip) -> Labels:
    """Read one clip's joints and masks.

    Raises:
        BadClip: a file is missing or damaged, or the two disagree about the number of frames.
    """
    joints_path = src / "joint_positions" / clip.folder / "joint_positions.mat"
    mask_path = src / "puppet_mask" / clip.folder / "puppet_mask.mat"
    joints = read_mat(joints_path, "pos_img", (2, len(KEYPOINTS), None))
    masks = read_mat(mask_path, "part_mask", (None, None, None))
    if joints.shape[2] != masks.shape[2]:
        raise BadClip(
            f"{mask_path}: {masks.shape[2]} frames, but {joints_path} has {joints.shape[2]}"
        )
    boxes = np.stack([mask_box(masks[:, :, t]) for t in range(masks.shape[2])])
    height, width = masks.shape[:2]
    return Labels(joints.astype(np.float64).transpose(2, 1, 0), boxes, (height, width))


def mask_box(mask: np.ndarray) -> np.ndarray:
    """The 1-based box ``[x, y, w, h]`` of a mask (H, W); NaN if the mask is empty."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(xs):
        return np.full(4, np.nan)
    box = [xs[0] + 1, ys[0] + 1, xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1]
    return np.array(box, dtype=np.float64)


def find_source(src: Path, clip: Clip) -> Path | None:
    """The clip's folder of frames, else its video, else None (the clip is absent)."""
    images = src / "Rename_Images" / clip.folder
    if images.is_dir() and any(frame_number(p) for p in images.iterdir()):
        return images
    for folder in ("ReCompress_Videos", "JHMDB_video/ReCompress_Videos"):
        video = src / folder / clip.action / f"{clip.name}.avi"
        if video.is_file():
            return video
    return None


def frame_number(path: Path) -> int:
    """The number in a frame's name (``00001.png`` -> 1), 0 for any other file."""
    return int(path.stem) if path.suffix == ".png" and path.stem.isdigit() else 0


def read_images(folder: Path) -> Iterator[np.ndarray]:
    """Yield a folder's frames in order, uint8 (H, W, 3) BGR.

    Raises:
        BadClip: a number between the first and the last is missing, or an image is unreadable.
    """
    paths = {frame_number(p): p for p in folder.iterdir() if frame_number(p)}
    for n in range(1, max(paths) + 1):
        if n not in paths:
            raise BadClip(f"{folder / f'{n:05d}.png'}: missing (the last is {max(paths):05d}.png)")
        image = cv2.imread(str(paths[n]), cv2.IMREAD_COLOR)
        if image is None:
            raise BadClip(f"{paths[n]}: truncated or not an image")
        yield image


def read_video(path: Path) -> Iterator[np.ndarray]:
    """Yield a video's frames, uint8 (H, W, 3) BGR, as many as can be decoded.

    The count in the container's header is no help: it is wrong for many of JHMDB's files.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise BadClip(f"{path}: not a video that can be opened")
        while True:
            found, image = capture.read()
            if not found:
                return
            yield image
    finally:
        capture.release()


def write_frames(source: Path, target: Path, labels: Labels, output: Output) -> int:
    """Write a clip's frames as ``target/00001.png`` …; the folder appears when it is complete.

    A folder that is already there with exactly the annotation's frames is left as it is.

    Returns:
        How many frames of the source lie beyond the annotation and were left out.

    Raises:
        BadClip: the source holds fewer frames than the annotation, or frames of another size.
        OutputRefused: the folder is there, and not as this tool has made it.
    """
    wanted = {f"{t:05d}.png" for t in range(1, len(labels) + 1)}
    there = {p.name for p in target.iterdir()} if target.is_dir() else set()
    if source == target:
        if not wanted <= there:
            raise BadClip(f"{target}: found no {min(wanted - there)}")
        return copy_frames(source, None, labels)
    if there == wanted:
        return 0
    with output.folder(target) as folder:
        return copy_frames(source, folder, labels)


def copy_frames(source: Path, folder: Path | None, labels: Labels) -> int:
    """Read a clip's frames, and write them into a folder if one is given; see `write_frames`."""
    count = 0
    for image in read_images(source) if source.is_dir() else read_video(source):
        count += 1
        if count > len(labels):
            continue  # counted, not written
        if image.shape[:2] != labels.size:
            raise BadClip(
                f"{source}: frame {count} has (height, width) {image.shape[:2]}, but the "
                f"puppet mask has {labels.size}"
            )
        if folder is not None and not cv2.imwrite(str(folder / f"{count:05d}.png"), image):
            raise ConversionError(f"{folder / f'{count:05d}.png'}: cannot be written")
    if count < len(labels):
        raise BadClip(
            f"{source}: {count} frames can be read, but the annotation has {len(labels)}: "
            "truncated?"
        )
    return count - len(labels)


def entries(clip: Clip, labels: Labels) -> tuple[list[dict], list[dict]]:
    """One clip's ``images`` and ``annotations`` in mmpose's format (1-based pixels)."""
    height, width = labels.size
    images: list[dict] = []
    annotations: list[dict] = []
    for t in range(len(labels)):
        image_id = clip.number * 10000 + t + 1
        images.append(
            dict(
                is_labeled=labels.labelled(t),
                file_name=(Path("Rename_Images") / clip.folder / f"{t + 1:05d}.png").as_posix(),
                nframes=len(labels),
                frame_id=image_id,
                vid_id=f"{clip.number:05d}",
                id=image_id,
                width=width,
                height=height,
            )
        )
        if not labels.labelled(t):
            continue
        visible = np.full((len(KEYPOINTS), 1), 2.0)  # the data set marks every joint visible
        keypoints = np.hstack([labels.joints[t].round(6), visible])
        annotations.append(
            dict(
                keypoints=keypoints.ravel().tolist(),
                track_id=0,
                image_id=image_id,
                bbox=labels.boxes[t].tolist(),
                scores=[],
                category_id=1,
                id=10**12 + image_id,
            )
        )
    return images, annotations


def convert(src: Path, out: Path, workers: int = 1, skip_bad: bool = False) -> Summary:
    """Convert every clip that the splits name and ``src`` holds.

    Args:
        src: JHMDB's root.
        out: the new data root; may be ``src`` itself where that already has the frames.
        workers: clips converted at a time.
        skip_bad: leave bad clips out instead of refusing to write annotation files.

    Returns:
        What was done. ``summary.written`` is empty if bad clips kept the annotation from being
        written.

    Raises:
        ConversionError: ``src`` has no splits, none of the clips that they name, or names that are
            no plain names.
        OutputRefused: something is in the way that this tool has not made.
    """
    src, out = src.resolve(), out.resolve()
    output = Output(out, TOOL)
    splits = read_splits(src / "splits")
    keys = sorted({key for split in splits.values() for key in split})
    clips = [Clip(action, name, n) for n, (action, name) in enumerate(keys, 1)]
    sources = {clip: find_source(src, clip) for clip in clips}
    summary = Summary(absent=[c.folder.as_posix() for c in clips if sources[c] is None])
    present = {clip: source for clip, source in sources.items() if source is not None}
    if not present:
        raise ConversionError(
            f"{src}: found none of the {len(clips)} clips that the splits name, neither in "
            "Rename_Images nor in ReCompress_Videos"
        )

    def one(clip: Clip) -> tuple[Labels, int]:
        labels = read_labels(src, clip)
        target = output.path("Rename_Images", clip.folder)
        return labels, write_frames(present[clip], target, labels, output)

    done: dict[tuple[str, str], tuple[Clip, Labels]] = {}
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        jobs = {pool.submit(one, clip): clip for clip in present}
        try:
            for job in track(as_completed(jobs), "Clips", total=len(jobs), console=CONSOLE):
                clip = jobs[job]
                try:
                    labels, surplus = job.result()
                except BadClip as error:
                    summary.bad.append(str(error))
                    continue
                done[clip.action, clip.name] = (clip, labels)
                if surplus:
                    summary.notes.append(
                        f"{clip.folder.as_posix()}: {surplus} frames beyond the annotation left out"
                    )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    summary.bad.sort()
    summary.notes.sort()
    summary.clips = len(done)
    summary.frames = sum(len(labels) for _, labels in done.values())
    summary.unlabelled = sum(
        not labels.labelled(t) for _, labels in done.values() for t in range(len(labels))
    )
    if summary.bad and not skip_bad:
        return summary
    files: dict[Path, bytes] = {}
    for k, split in splits.items():
        for subset in SUBSETS.values():
            images: list[dict] = []
            annotations: list[dict] = []
            for key in sorted(key for key, value in split.items() if value == subset):
                if key in done:
                    more_images, more_annotations = entries(*done[key])
                    images += more_images
                    annotations += more_annotations
            path = output.path("annotations", f"Sub{k}_{subset}.json")
            content = dict(categories=[CATEGORY], images=images, annotations=annotations)
            files[path] = json.dumps(content).encode()
            clip_count = len({image["vid_id"] for image in images})
            summary.written[path.name] = (clip_count, len(images))
    for path, text in files.items():
        output.check(path, text)  # all of them before the first is written
    for path, text in files.items():
        output.write(path, text)
    return summary


def report(summary: Summary) -> None:
    """Print what was converted, what is absent, and what is bad."""
    table = Table("annotation file", "clips", "frames")
    for name, (clips, frames) in summary.written.items():
        table.add_row(name, str(clips), str(frames))
    if summary.written:
        CONSOLE.print(table)
    CONSOLE.print(
        f"{summary.clips} clips, {summary.frames} frames ({summary.unlabelled} unlabelled); "
        f"{len(summary.absent)} clips named in a split are absent; {len(summary.bad)} bad"
    )
    for line in summary.absent[:5]:
        CONSOLE.print(f"  absent: {line}", markup=False)
    if len(summary.absent) > 5:
        CONSOLE.print(f"  ... and {len(summary.absent) - 5} more absent")
    for line in summary.notes:
        CONSOLE.print(f"  note: {line}", markup=False)
    for line in summary.bad:
        CONSOLE.print(f"  bad: {line}", markup=False, style="red")


CONSOLE = Console()


def main(argv: list[str] | None = None) -> int:
    """Run the converter; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True, help="JHMDB's root")
    parser.add_argument("--out", type=Path, required=True, help="the new data root")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--skip-bad", action="store_true", help="leave bad clips out")
    args = parser.parse_args(argv)
    try:
        summary = convert(args.src, args.out, args.workers, args.skip_bad)
    except (ConversionError, OutputRefused) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(summary)
    if summary.bad and not args.skip_bad:
        print(
            f"error: {len(summary.bad)} bad clips (listed above); no annotation file was written. "
            "Repair them, or leave them out with --skip-bad.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
