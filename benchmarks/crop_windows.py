"""Accuracy and MACs of crop windows: mmpose's per frame, hysteresis, and stabilised.

On rendered clips under a camera that pans at 1 to 6 pixels a frame, fractional speeds included
(the background goes by, the person is part of it):

    python benchmarks/crop_windows.py configs/demo/skip_hrnet_small.py \\
        configs/demo/hrnet_small_synthetic.pth --pans 6

and on the test data of a config, real clips among them:

    python benchmarks/crop_windows.py CONFIG CHECKPOINT [--match REGEX] [--clips N]

Same weights and frames in all rows. `dense` has the same windows and no gates. Rows go to
benchmarks/data/crop_windows.csv; GMACs are per frame after a clip's first, gates included.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
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
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmpose.registry import DATASETS, MODELS

import skippose  # noqa: F401  (registers its names)
from skippose.datasets.synthetic.recording import Recording
from skippose.evaluation import ClipEvaluator

SPEEDS = (1.0, 1.5, 2.0, 2.7, 3.3, 4.0, 5.5, 6.0)
ACTIONS = ("wave", "clap", "punch", "kick", "throw", "sit")
VARIANTS: dict[str, dict] = {
    "frame": dict(crop="frame"),
    "hysteresis": dict(crop="hysteresis"),
    "stabilised": dict(crop="hysteresis", stabilise=True),
}
OUT = Path(__file__).parent / "data" / "crop_windows.csv"


def pan(action: str, seed: list[int], speed: float) -> Recording:
    """A recording of a still camera, seen by one that pans by ``speed`` pixels a frame."""
    frames = min(24, 1 + int(110 / speed))
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


def measure(config: Config, model: Any, variant: dict, match: str, count: int) -> dict:
    """The metrics of one row."""
    settings = deepcopy(config.test_dataloader.dataset.to_dict())
    dataset = DATASETS.build({**settings, **variant})
    ids = [i for i in range(len(dataset)) if re.search(match, dataset.get_data_info(i)["clip_id"])]
    metrics = config.test_evaluator.to_dict()["metrics"]
    evaluator = ClipEvaluator([m for m in metrics if m["type"] != "PoseTrack18Metric"])
    evaluator.dataset_meta = dataset.metainfo
    with torch.no_grad():
        for i in ids[:count]:
            batch = pseudo_collate([dataset[i]])
            evaluator.process(model.test_step(batch), batch)
    return {"clips": len(ids[:count]), **evaluator.evaluate(len(ids))}


def rows(args: argparse.Namespace, config: Config) -> Iterator[dict]:
    gated = MODELS.build(config.model)
    config.model.backbone.gate = None
    dense = MODELS.build(config.model)
    for model in (gated, dense):
        load_checkpoint(model, args.checkpoint, map_location="cpu")
        model.eval()
    test = config.test_dataloader.dataset
    with tempfile.TemporaryDirectory() as folder:
        places: list[tuple[str, dict]] = [(test.dataset.ann_file, {})]
        if args.pans:
            places = []
            for speed in SPEEDS:
                root = Path(folder) / str(speed)
                write_pans(root, speed, args.pans)
                data = dict(data_root=str(root), ann_file="annotations/pans.json")
                places.append((f"pan {speed} px/frame", data))
        for name, data in places:
            test.dataset.update(data)
            for variant, change in VARIANTS.items():
                for kind, model in (("dense", dense), ("gated", gated)):
                    if kind == "dense" and variant == "stabilised":
                        continue
                    found = measure(config, model, change, args.match, args.clips)
                    yield {"data": name, "match": args.match, "window": variant, "net": kind} | {
                        key: f"{value:.4f}" if isinstance(value, float) else value
                        for key, value in found.items()
                    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--pans", type=int, default=0, help="rendered clips for each speed")
    parser.add_argument("--match", default="", help="clips whose id matches this expression")
    parser.add_argument("--clips", type=int, default=10**6, help="at most so many clips")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope("mmpose")
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    args.out.parent.mkdir(exist_ok=True, parents=True)
    for row in rows(args, config):
        row = {"config": args.config, **row}
        print(row, flush=True)
        new = not args.out.exists()
        with args.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
