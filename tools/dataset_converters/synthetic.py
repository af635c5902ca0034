"""Make a data set of synthetic clips in JHMDB's layout, with mmpose's annotation files.

Nothing is read or downloaded: every clip is rendered from ``--seed``. Writes, below ``--out``::

    Rename_Images/<class>/<clip>/00001.png ...   320x240, 24 to 40 frames
    annotations/Sub1_train.json, Sub1_test.json  as tools/dataset_converters/jhmdb.py writes them
    .synthetic/<class>/<clip>.json               labels of the finished clips, for a later run
    .made                                        what this tool has made: only that does it replace

There are twelve classes, one for each motion. Every fourth clip is a test clip: other people, other
places, other courses of the motion. A clip depends on the seed and its number alone, so any number
of workers writes the same bytes, and a larger ``--clips`` adds clips to those that are there.

A clip's folder and an annotation file appear under their names only when they are complete: an
interrupted run is simply started again, and finished clips are not rendered twice.

Example::

    python tools/dataset_converters/synthetic.py --out data/synthetic --clips 300
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jhmdb import (  # the neighbouring converter, whose output this one's must equal
    CATEGORY,
    CONSOLE,
    Clip,
    ConversionError,
    Labels,
    entries,
    mask_box,
)
from rich.progress import track
from rich.table import Table

from skippose.datasets.synthetic import HEIGHT, MOTIONS, WIDTH, Recording
from skippose.files import Output, replace_file

TOOL = "tools/dataset_converters/synthetic.py"
VERSION = 2  # raise it when the same seed no longer gives the same clips
FEWEST = 4  # clips: with fewer there is no test clip
NOTES = ".synthetic"
# Quick rather than small: writing a frame otherwise takes longer than rendering it.
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


@dataclass(frozen=True)
class Job:
    """One clip to make.

    Attributes:
        out: the data root.
        clip: class, name and number (from 1).
        subset: ``train`` or ``test``.
        seed: the data set's seed.
    """

    out: Path
    clip: Clip
    subset: str
    seed: int

    @property
    def identity(self) -> list[int]:
        """What the clip is drawn from."""
        return [self.seed, 0 if self.subset == "train" else 1, self.clip.number]

    @property
    def output(self) -> Output:
        """What is made below the data root."""
        return Output(self.out, TOOL)

    @property
    def images(self) -> Path:
        """The folder of its frames."""
        return self.output.path("Rename_Images", self.clip.folder)

    @property
    def note(self) -> Path:
        """The file with its labels, written last."""
        return self.output.path(NOTES, self.clip.action, f"{self.clip.name}.json")


@dataclass
class Summary:
    """What a run did: subset -> clips and frames; how many clips were already there."""

    written: dict[str, tuple[int, int]] = field(default_factory=dict)
    kept: int = 0


def plan(out: Path, clips: int, seed: int) -> list[Job]:
    """The clips of a data set, in the order of their numbers."""
    actions = sorted(MOTIONS)
    jobs = []
    for i in range(clips):
        row, column = divmod(i, len(actions))
        subset = "test" if (column + row) % 4 == 3 else "train"  # every class in its turn
        action = actions[column]
        jobs.append(Job(out, Clip(action, f"synthetic_{action}_{i + 1:05d}", i + 1), subset, seed))
    return jobs


def finished(job: Job) -> Labels | None:
    """The labels of a clip that an earlier run has completed; None if it has to be made."""
    try:
        note = json.loads(job.note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("identity") != [VERSION, *job.identity]:
        return None
    labels = Labels(np.array(note["joints"]), np.array(note["boxes"]), (HEIGHT, WIDTH))
    wanted = {f"{t:05d}.png" for t in range(1, len(labels) + 1)}
    if not job.images.is_dir() or {p.name for p in job.images.iterdir()} != wanted:
        return None
    return labels


def make(job: Job) -> Labels:
    """Render a clip and write its frames and its note.

    Raises:
        ConversionError: a file cannot be written.
        OutputRefused: the clip's folder is there, and not as this tool has made it.
    """
    recording = Recording.sample(job.clip.action, job.identity)
    images, masks = recording.record()
    boxes = np.stack([mask_box(mask) for mask in masks])
    labels = Labels((recording.joints + 1).round(4), boxes, (HEIGHT, WIDTH))
    job.note.unlink(missing_ok=True)  # it must not outlive the frames that it describes
    with job.output.folder(job.images) as folder:
        for t, image in enumerate(images, 1):
            path = folder / f"{t:05d}.png"
            if not cv2.imwrite(str(path), image, PNG):
                raise ConversionError(f"{path}: cannot be written")
    content = dict(
        identity=[VERSION, *job.identity],
        joints=labels.joints.tolist(),
        boxes=labels.boxes.tolist(),
    )
    write_json(job.note, content)
    return labels


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(content))


def convert(out: Path, clips: int = 300, seed: int = 0, workers: int = 1) -> Summary:
    """Make the data set.

    Args:
        out: the data root; new, empty, or of an earlier run.
        clips: how many, train and test together.
        seed: what all of them are drawn from.
        workers: clips made at a time.

    Raises:
        ConversionError: an argument out of its range, a data root that holds something else, or a
            file that cannot be written.
        OutputRefused: something is in the way that this tool has not made.
    """
    for name, value, least in (
        ("clips", clips, FEWEST),
        ("seed", seed, 0),
        ("workers", workers, 1),
    ):
        if value < least:
            raise ConversionError(f"--{name} must be at least {least}, found {value}")
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise ConversionError(f"--out {out}: a file, expected a folder")
    others = [out / "annotations", out / "Rename_Images"]
    if not (out / NOTES).is_dir() and any(path.exists() for path in others):
        raise ConversionError(
            f"--out {out}: holds a data set that this tool has not made (no {NOTES}); expected a "
            "new folder or one of its own"
        )
    output = Output(out, TOOL)
    output.path(NOTES).mkdir(parents=True, exist_ok=True)
    jobs = plan(out, clips, seed)
    done = {job: labels for job in jobs if (labels := finished(job)) is not None}
    summary = Summary(kept=len(done))
    _make_all([job for job in jobs if job not in done], workers, done)
    files: dict[Path, bytes] = {}
    for subset in ("train", "test"):
        images: list[dict] = []
        annotations: list[dict] = []
        chosen = [job for job in jobs if job.subset == subset]
        for job in chosen:
            more_images, more_annotations = entries(job.clip, done[job])
            images += more_images
            annotations += more_annotations
        content = dict(categories=[CATEGORY], images=images, annotations=annotations)
        path = output.path("annotations", f"Sub1_{subset}.json")
        files[path] = json.dumps(content).encode()
        summary.written[subset] = (len(chosen), len(images))
    for path, text in files.items():
        output.check(path, text)  # both before one is written
    for path, text in files.items():
        output.write(path, text)
    return summary


def _make_all(jobs: list[Job], workers: int, done: dict[Job, Labels]) -> None:
    """Make clips in worker processes; puts their labels into ``done``."""
    if not jobs:
        return
    # Forked workers need not import torch and mmpose again. OpenCV's threads do not survive a fork,
    # and the workers fill the cores anyway.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            waiting = {pool.submit(make, job): job for job in jobs}
            try:
                for future in track(
                    as_completed(waiting), "Clips", total=len(waiting), console=CONSOLE
                ):
                    done[waiting[future]] = future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        cv2.setNumThreads(threads)


def report(out: Path, summary: Summary) -> None:
    """Print what there is now."""
    table = Table("annotation file", "clips", "frames")
    for subset, (clips, frames) in summary.written.items():
        table.add_row(f"annotations/Sub1_{subset}.json", str(clips), str(frames))
    CONSOLE.print(table)
    if summary.kept:
        CONSOLE.print(f"{summary.kept} clips were there already")
    CONSOLE.print(
        f"To use them: export SKIPPOSE_SYNTHETIC={out} (configs/demo), or SKIPPOSE_DATA for others",
        markup=False,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the data root to write")
    parser.add_argument("--clips", type=int, default=300, help="train and test together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    args = parser.parse_args(argv)
    try:
        summary = convert(args.out, args.clips, args.seed, args.workers)
    except (ConversionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(args.out, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
