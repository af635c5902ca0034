"""Accuracy and MACs of crop windows: mmpose's per frame, hysteresis, and stabilised.

On rendered clips under a camera that pans at 1 to 6 pixels a frame, fractional speeds included
(the background goes by, the person is part of it), and under one that does not move:

    python benchmarks/crop_windows.py pans configs/demo/skip_hrnet_small.py \\
        configs/demo/hrnet_small_synthetic.pth --pans 6

and on the test data of a config, real clips among them:

    python benchmarks/crop_windows.py real CONFIG CHECKPOINT [--eps 0.1 0.2 0.3] [--clips N]

Same weights and frames in all rows of a run. Its rows replace those of the same name in
results/crop_windows.csv, and results/crop_windows.md gets its tables from there (between the
comments ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; `--tables` alone writes these anew).
GMACs are per frame after a clip's first, gates included.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction

import skippose
from skippose.datasets.synthetic.recording import Recording
from skippose.evaluation.bootstrap import interval, resamples
from skippose.evaluation.clip_bank import build_dataset, camera_of, file_digest, load_clips
from skippose.evaluation.comparison import Result, build_network, dense_model, evaluate
from skippose.evaluation.scores import METRICS, Scores

SPEEDS = (0.0, 1.0, 1.5, 2.0, 2.7, 3.3, 4.0, 5.5, 6.0)
ACTIONS = ("wave", "clap", "punch", "kick", "throw", "sit")
WINDOWS: dict[str, dict] = {
    "per frame": dict(crop="frame"),
    "hysteresis": dict(crop="hysteresis"),
    "stabilised": dict(crop="hysteresis", stabilise=True),
}
RESULTS = Path(__file__).parents[1] / "results"
PCK = {name: [m.name for m in METRICS].index(name) for name in ("PCK@0.2", "PCK@0.1")}
Key = tuple[str, float | None]  # window, and eps; None is dense


def pan(action: str, seed: list[int], speed: float) -> Recording:
    """A recording of a still camera, seen by one that pans by ``speed`` pixels a frame."""
    frames = min(24, 1 + int(110 / speed)) if speed else 24
    still = Recording.sample(action, seed, frames=frames, camera="still")
    middle = float(still.joints[..., 0].mean()) - 159.5
    shift = np.clip(middle, -50, 50) + speed * (np.arange(frames) - (frames - 1) / 2)
    by = np.stack([shift, np.zeros(frames)], axis=1)
    affine = still.camera.affine.copy()
    affine[:, :, 2] -= by
    views = [
        replace(view, at={name: xy - by[t] for name, xy in view.at.items()})
        for t, view in enumerate(still.views)
    ]
    shadows = still.shadows.copy()
    shadows[:, :2] -= by
    camera = replace(still.camera, kind="pan", affine=affine)
    return replace(
        still, joints=still.joints - by[:, None], camera=camera, views=views, shadows=shadows
    )


def write_pans(root: Path, speed: float, clips: int) -> None:
    """Renders clips and their annotation (1-based, as JHMDB's is) below ``root``."""
    images: list[dict] = []
    annotations: list[dict] = []
    for number in range(clips):
        recording = pan(ACTIONS[number % len(ACTIONS)], [77, number], speed)
        pixels, masks = recording.record()
        folder = Path("Rename_Images") / "pan" / f"clip{number}"
        (root / folder).mkdir(parents=True)
        for t, (frame, mask) in enumerate(zip(pixels, masks, strict=True)):
            name = folder / f"{t + 1:05d}.png"
            cv2.imwrite(str(root / name), frame)
            ids = dict(id=number * 10000 + t + 1)
            size = dict(height=frame.shape[0], width=frame.shape[1])
            images.append(dict(**ids, **size, file_name=name.as_posix()))
            joints = np.column_stack([recording.joints[t] + 1, np.full(15, 2.0)])
            x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
            annotations.append(
                dict(
                    **ids,
                    image_id=ids["id"],
                    track_id=0,
                    category_id=1,
                    keypoints=joints.ravel().tolist(),
                    bbox=[x + 1, y + 1, width, height],
                )
            )
    (root / "annotations").mkdir()
    content = dict(categories=[dict(id=1, name="person")], images=images, annotations=annotations)
    (root / "annotations" / "pans.json").write_text(json.dumps(content))


def run(
    model: dict,
    checkpoint: str,
    dataset: dict,
    eps: list[float],
    clips: int | None,
    cache: Path | None = None,
) -> dict[Key, Result]:
    """Every window with the dense network and with gates at every ``eps``, on the same clips.

    Args:
        model: the gated network's config.
        checkpoint: its weights.
        dataset: the config of the clips.
        eps: thresholds.
        clips: how many clips; None for all.
        cache: a folder for what is finished, from which an interrupted run goes on.
    """
    dense = build_network(dense_model(model), checkpoint)
    gated = []
    for value in eps:
        other = deepcopy(model)
        other["backbone"]["gate"]["eps"] = value
        gated.append((value, build_network(other, checkpoint)))
    found: dict[Key, Result] = {}
    inner = dataset["dataset"]
    labels = file_digest(str(Path(inner["data_root"]) / inner["ann_file"]))  # wherever they lie
    rest = {key: value for key, value in inner.items() if key != "data_root"}
    about = [model, file_digest(checkpoint), labels, {**dataset, "dataset": rest}, clips]
    for window, change in WINDOWS.items():
        loaded = []
        for value, network in [(None, dense), *gated]:
            identity = json.dumps([*about, change, value], sort_keys=True, default=str)
            digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
            path = cache / f"{digest}.json" if cache else None
            if path is not None and path.exists():
                found[window, value] = Result.load(path)
                continue
            loaded = loaded or load_clips(build_dataset({**dataset, **change}), clips)
            cameras = [camera_of(clip) for clip in loaded]
            found[window, value] = evaluate(network, loaded, cameras)
            if path is not None:
                found[window, value].save(path, dict(window=window, eps=value))
            report = found[window, value].report
            print(f"{window}, eps {value}: {report.gmacs:.4f} GMACs", flush=True)
    return found


def joined(results: list[Result]) -> Result:
    """Results over different clips as one."""
    return Result(
        [clip for r in results for clip in r.clip_ids],
        [camera for r in results for camera in r.cameras],
        Scores(
            np.concatenate([r.scores.correct for r in results]),
            np.concatenate([r.scores.valid for r in results]),
        ),
        [report for r in results for report in r.reports],
    )


def rows(data: str, found: dict[Key, Result]) -> Iterator[dict[str, Any]]:
    """A row for each key.

    Differences of PCK are to the dense network on per-frame crops, mmpose's own way, with the 95%
    interval of a paired bootstrap over clips. ``less than per frame`` and ``less than hysteresis``
    are MACs of those windows, with the same gates, over the row's. ``dearest clip`` is the highest
    ratio of a clip's MACs to those that it takes with plain hysteresis.
    """
    base = found["per frame", None]
    weights = resamples(len(base.clip_ids))
    for (window, eps), result in found.items():
        row: dict[str, Any] = dict(data=data, window=window, eps="dense" if eps is None else eps)
        row |= dict(clips=len(result.clip_ids), frames=int(result.frames.sum()) + len(weights[0]))
        for name, n in PCK.items():
            gain = result.scores.pck(n, weights) - base.scores.pck(n, weights)
            low, high = interval(gain)
            row[name] = result.scores.pck(n)[0]
            row[f"{name} difference"] = row[name] - base.scores.pck(n)[0]
            row[f"{name} low"], row[f"{name} high"] = low, high
        row["GMACs"] = result.report.gmacs
        plain = found["hysteresis", eps]
        row["less than per frame"] = found["per frame", eps].report.gmacs / result.report.gmacs
        row["less than hysteresis"] = plain.report.gmacs / result.report.gmacs
        row["dearest clip"] = float(np.max(result.spent / plain.spent))
        yield {key: f"{x:.4f}" if isinstance(x, float) else str(x) for key, x in row.items()}


def measure(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """All rows of a run."""
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    model, dataset = config.model.to_dict(), config.test_dataloader.dataset.to_dict()
    eps = args.eps or [model["backbone"]["gate"]["eps"]]
    if not args.pans:
        found = run(model, args.checkpoint, dataset, eps, args.clips, args.cache)
        for subset in ("all", "still", "moving"):
            part = {key: result.subset(subset) for key, result in found.items()}
            if part["per frame", None].clip_ids:
                yield from rows(subset, part)
        return
    every = []
    for speed in SPEEDS:
        root = folder / str(speed)
        write_pans(root, speed, args.pans)
        inner = {**dataset["dataset"], "data_root": str(root), "ann_file": "annotations/pans.json"}
        place = {**dataset, "dataset": inner}
        found = run(model, args.checkpoint, place, eps, None, args.cache)
        yield from rows(f"{speed} px", found)
        if speed:
            every.append(found)
    yield from rows("all", {key: joined([found[key] for found in every]) for key in every[0]})


COLUMNS = {
    "data": "data",
    "window": "window",
    "eps": "ε",
    "PCK@0.2": "PCK@0.2",
    "PCK@0.2 difference": "difference",
    "PCK@0.1": "PCK@0.1",
    "PCK@0.1 difference": "difference",
    "GMACs": "GMACs",
    "less than per frame": "less than per frame",
    "less than hysteresis": "less than hysteresis",
    "dearest clip": "dearest clip",
}


def cell(row: dict[str, str], key: str) -> str:
    if key in PCK:
        return f"{100 * float(row[key]):.1f}"
    if key.endswith("difference"):
        name = key.split()[0]
        value, low, high = (100 * float(row[f"{name} {end}"]) for end in _ENDS)
        return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
    if key.startswith("less") or key == "dearest clip":
        return "" if row["eps"] == "dense" else f"{float(row[key]):.2f}x"
    return row[key]


_ENDS = ("difference", "low", "high")


def write_tables(table: list[dict[str, str]], path: Path) -> None:
    """Puts each run's table, and its command, between its two comments in a page."""
    page = path.read_text(encoding="utf-8")
    for name in dict.fromkeys(row["run"] for row in table):
        mine = [row for row in table if row["run"] == name]
        lines = [f"    {mine[0]['command']}", ""]
        lines.append("| " + " | ".join(COLUMNS.values()) + " |")
        lines.append("|---|---|" + "--:|" * (len(COLUMNS) - 2))
        lines += ["| " + " | ".join(cell(row, key) for key in COLUMNS) + " |" for row in mine]
        begin, end = (f"<!-- {name}:{edge} -->" for edge in ("begin", "end"))
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"{path} has no {begin} ... {end} for the table")
        page = before + begin + "\n" + "\n".join(lines) + "\n" + end + after
    path.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the run, in the results")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--pans", type=int, default=0, help="rendered clips for each speed")
    parser.add_argument("--eps", type=float, nargs="+", help="thresholds (default: the config's)")
    parser.add_argument("--clips", type=int, help="at most so many clips, at even distances")
    parser.add_argument("--cache", type=Path, help="folder from which an interrupted run goes on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--tables", action="store_true", help="write the tables anew, run nothing")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = args.out / "crop_windows.csv"
    table = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    if not args.tables:
        words = ["benchmarks/crop_windows.py", *sys.argv[1:]]
        if "--cache" in words:  # says nothing about the figures
            at = words.index("--cache")
            del words[at : at + 2]
        command = "python " + shlex.join(words)
        with tempfile.TemporaryDirectory() as folder:  # of the rendered clips
            new = [
                dict(run=args.name, command=command, version=skippose.__version__, **row)
                for row in measure(args, Path(folder))
            ]
        table = [row for row in table if row["run"] != args.name] + new
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    write_tables(table, path.with_suffix(".md"))


if __name__ == "__main__":
    main()
