#!/usr/bin/env python
"""Poses in a video: the pose, where the network computed, and what that cost.

    python tools/demo.py walk.mp4 --config CONFIG --checkpoint CHECKPOINT --bbox 120 40 90 200 \\
        --out out.mp4
    python tools/demo.py 0 --config CONFIG --checkpoint CHECKPOINT --whole-frame --show
    python tools/demo.py frames/ --config CONFIG --checkpoint CHECKPOINT --tracks tracks.txt \\
        --out out.mp4

Where the people are: --bbox, one person's box in the first frame, which then follows the pose;
--tracks, a tracker's file with a line frame,id,x,y,width,height for each box, frames from 1
(MOTChallenge); or --whole-frame. Without any of them mmpose's detector looks, if mmdet is there.

The network computes in full what is new: a person's first frame, and a frame in which the crop
window had to move. If something is wrong with the video on the way, what was written until then
plays. --no-masks does without the picture of what is computed.
"""

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import skippose  # noqa: F401  (registers its models, data sets and metrics)
from skippose.checkpoints.command_line import add_option
from skippose.video import BoxError, PoseFrame, Summary, VideoError, VideoPose, VideoSource


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("source", help="video file, folder of images, camera's number or address")
    options.add_argument("--config", required=True, help="config of a gated network")
    options.add_argument("--checkpoint", required=True, help="its weights")
    where = options.add_mutually_exclusive_group()
    where.add_argument(
        "--bbox", nargs=4, type=float, metavar=("X", "Y", "WIDTH", "HEIGHT"), help="in pixels"
    )
    where.add_argument("--tracks", metavar="FILE", help="a tracker's boxes, one slot a person")
    where.add_argument("--whole-frame", action="store_true", help="one person fills the frame")
    options.add_argument("--out", type=Path, help="video to write: .mp4, .webm, .mkv, .avi or .gif")
    options.add_argument("--show", action="store_true", help="show it in a window; q ends it")
    options.add_argument("--frames", type=int, help="stop after so many frames")
    options.add_argument("--no-masks", action="store_true", help="do not draw what is computed")
    options.add_argument(
        "--stabilise", action="store_true", help="windows may follow a moving camera's background"
    )
    options.add_argument("--backend", default="auto", help="of the stream (default: auto)")
    options.add_argument("--cut", type=float, help="density above which a slot begins anew")
    options.add_argument("--refresh-every", type=int, help="frames from one dense one to the next")
    options.add_argument("--threshold", type=float, default=0.3, help="of joints (default: 0.3)")
    options.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    options.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    add_option(options)
    options.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE"
    )
    try:
        args = options.parse_args(arguments)
    except ValueError:  # mmengine's DictAction raises it; argparse catches those of types alone
        options.error("--cfg-options takes KEY=VALUE ...")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        options.error(f"--device {args.device}: torch finds no CUDA device here")
    if args.out is None and not args.show:
        options.error("nothing to do: give --out FILE, --show, or both")
    if args.frames is not None and args.frames < 1:
        options.error(f"--frames must be at least 1, got {args.frames}")
    return args


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Runs the video through the network; returns what was done."""
    video = VideoSource(args.source)  # before the network is built: it says at once what is wrong
    config = Config.fromfile(args.config)
    try:
        config.merge_from_dict(args.cfg_options)
        pose = VideoPose(
            config,
            args.checkpoint,
            device=args.device,
            masks=not args.no_masks,
            backend=args.backend,
            cut=args.cut,
            refresh_every=args.refresh_every,
            threshold=args.threshold,
            stabilise=args.stabilise,
            allow_checkpoint_code=args.allow_checkpoint_code,
        )
    except (TypeError, KeyError) as error:  # a setting of no class, a class of no registry
        raise ValueError(f"{args.config}: {error.args[0]}") from error
    where = dict(bbox=args.bbox, tracks=args.tracks, whole_frame=args.whole_frame)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    total = video.count if args.frames is None else min(args.frames, video.count or args.frames)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(Path(video.name).name[-30:], total=total, rate="")
        start = time.perf_counter()

        def on_frame(frame: PoseFrame, picture: NDArray[np.uint8]) -> bool:
            done = frame.index + 1
            rate = done / (time.perf_counter() - start)
            progress.update(task, completed=done, rate=f"{rate:.1f} frames/s")
            if args.show:
                cv2.imshow("skippose", picture)
                if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
                    return False
            return done != args.frames

        return pose.write(video, args.out, on_frame=on_frame, **where)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    MMLogger.get_instance("demo", log_level=logging.WARNING)
    console = Console()
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"mm(cv|engine|pose|det)\b")
            # Those of this video are for who runs it, whatever PYTHONWARNINGS says.
            warnings.filterwarnings("always", category=UserWarning, module=r"skippose\b")
            warnings.showwarning = lambda message, *_: console.print(f"warning: {message}")
            done = run(args, console)
    except (VideoError, BoxError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; what was written until then plays")
    seconds = time.perf_counter() - started
    console.print(
        f"{done.frames} frames at {done.frames / seconds:.1f} frames/s, start included: network "
        f"{1000 * done.network_seconds / done.frames:.1f} ms a frame, drawing "
        f"{1000 * done.drawing_seconds / done.frames:.1f} ms, encoding "
        f"{1000 * done.encoding_seconds / done.frames:.1f} ms"
    )
    if done.dense_gmacs:
        console.print(
            f"{done.gmacs / done.frames:.4g} GMACs a frame, first ones included: "
            f"{done.gmacs / done.dense_gmacs:.1%} of the dense network's"
        )
    if args.out is not None:
        note = "" if done.in_browsers else ": browsers do not play it; give a .webm file instead"
        console.print(f"{args.out} ({done.encoder}){note}", soft_wrap=True)


if __name__ == "__main__":
    main()
