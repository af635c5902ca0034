#!/usr/bin/env python
"""Draws what a network computes and what it skips over test clips, into files.

    python tools/visualize_gates.py CONFIG CHECKPOINT --clip walk --out work_dirs/gates
    python tools/visualize_gates.py CONFIG CHECKPOINT --list

For each clip a folder with the predicted poses, where the MACs went, densities of all layers over
time, MACs over time with cuts marked, mean densities in the network's order, the masks of chosen
layers, an overview of poses, MACs and the first of these layers, and an animation of it all.
--clip takes ids as --list prints them, parts of ids, or glob patterns; the first test clip by
default. A clip's folder is made anew if this tool has made it before (.made in --out says so), and
is left alone if somebody else has.
"""

import argparse
import logging
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

import skippose  # noqa: F401  (registers its models, data sets and metrics)
from skippose.checkpoints.command_line import add_option, refused_in_a_line
from skippose.evaluation.clip_bank import build_dataset, check_config
from skippose.evaluation.comparison import build_network
from skippose.files import Output, OutputRefused, as_plain_name
from skippose.video import VideoSink
from skippose.visualization.clip_gates import run_clip
from skippose.visualization.layer_tags import choose_layers, layer_tag

TOOL = "tools/visualize_gates.py"
LAYERS = ["backbone.conv1", "backbone.stage[234].0.branches.0.0.conv1", "head.final_layer"]


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("config", help="config of a gated network")
    options.add_argument("checkpoint", help="its weights")
    options.add_argument("--clip", nargs="+", metavar="ID", help="clips to draw")
    options.add_argument("--list", action="store_true", help="print the clips' ids and end")
    options.add_argument("--out", type=Path, help="folder (default: work_dirs/gates/<config>)")
    options.add_argument(
        "--layers", nargs="+", default=LAYERS, help="names or glob patterns of layers to draw"
    )
    options.add_argument("--max-layers", type=int, default=12, help="of them (default: 12)")
    options.add_argument("--strip", type=int, default=6, help="frames of a strip (default: 6)")
    options.add_argument("--frames", type=int, default=100, help="of a clip, at most (100)")
    options.add_argument("--fps", type=float, default=8, help="of the animation (default: 8)")
    options.add_argument("--gif", action="store_true", help="animate as .gif rather than .mp4")
    options.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    options.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    add_option(options)
    options.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE"
    )
    args, more = options.parse_known_args(arguments)
    if more:
        options.error(
            f"unrecognized arguments: {' '.join(more)}; clips are those of the config's test data "
            "(for a video: tools/demo.py)"
        )
    for name in ("max_layers", "strip", "frames", "fps"):
        if getattr(args, name) < 1:
            options.error(
                f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}"
            )
    args.out = args.out or Path("work_dirs") / "gates" / Path(args.config).stem
    return args


def chosen_clips(ids: list[str], wanted: list[str] | None) -> list[int]:
    """Indices of the clips that are asked for.

    Raises:
        SystemExit: for one that matches nothing.
    """
    if wanted is None:
        return [0]
    found: list[int] = []
    for pattern in wanted:
        exact = [n for n, name in enumerate(ids) if name == pattern]
        matches = exact or [
            n for n, name in enumerate(ids) if pattern in name or fnmatchcase(name, pattern)
        ]
        if not matches:
            video = "; for a video: tools/demo.py" if Path(pattern).exists() else ""
            raise SystemExit(
                f"no clip matches {pattern!r}; there are {len(ids)}, the first are {ids[:3]} "
                f"(--list prints all){video}"
            )
        found += [n for n in matches if n not in found]
    return found


def draw(network: Any, item: dict[str, Any], links: Any, args: argparse.Namespace) -> Path:
    """Writes one clip's pictures; returns their folder.

    Raises:
        OutputRefused: the folder is there, and not as this tool has made it.
    """
    raw = item["inputs"][: args.frames]
    samples = list(item["data_samples"])[: len(raw)]
    clip = run_clip(network, raw, samples)
    if clip is None:
        raise SystemExit(f"{args.config} has no gated layer: nothing is skipped")
    layers = choose_layers(clip.records, args.layers, args.max_layers)
    if not layers:
        raise SystemExit(
            f"no layer matches {args.layers}; there are {len(clip.records)}, for example "
            f"{list(clip.records)[:3]}"
        )
    pictures = dict(clip.pictures(layers, clip.even_frames(args.strip), links))
    strips = [pictures[name] for name in ("pose", "cost", layer_tag(layers[0])) if name in pictures]
    pictures["overview"] = np.vstack(strips)
    name = as_plain_name(samples[0].clip_id)
    with Output(args.out, TOOL).folder(args.out.resolve() / name) as folder:
        for title, picture in pictures.items():
            cv2.imwrite(str(folder / f"{title.replace('/', '.')}.png"), picture[..., ::-1])
        with VideoSink(folder / ("gates.gif" if args.gif else "gates.mp4"), args.fps) as sink:
            for picture in clip.animation(layers, links):
                sink.write(picture[..., ::-1])
    return args.out / name


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    MMLogger.get_instance("gates", log_level=logging.WARNING)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    try:
        check_config(config, args.config)
        dataset = build_dataset(config.test_dataloader.dataset.to_dict())
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    ids = [dataset.get_data_info(n)["clip_id"] for n in range(len(dataset))]
    if args.list:
        print("\n".join(ids))
        return
    which = chosen_clips(ids, args.clip)
    with refused_in_a_line():
        network = build_network(
            config.model.to_dict(), args.checkpoint, args.device, args.allow_checkpoint_code
        )
    links = dataset.metainfo.get("skeleton_links", ())
    for n in which:
        try:
            print(draw(network, dataset[n], links, args))
        except OutputRefused as error:
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
