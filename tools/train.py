#!/usr/bin/env python
"""Trains a model. The options are those of mmpose's own tools/train.py.

python tools/train.py configs/skip_hrnet_w32.py --cfg-options load_from=None
torchrun --nproc_per_node 2 tools/train.py configs/skip_hrnet_w32.py --launcher pytorch
"""

import argparse
from urllib.error import URLError

from _options import build_runner, checkpoints_of, draw_poses, load_config, parser
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

import skippose  # noqa: F401  (registers its models, data sets and metrics)


def parse_args() -> argparse.Namespace:
    options = parser("Train a pose model")
    options.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without a value, from the latest in the work directory, "
        "or from the config's load_from where there is none yet",
    )
    options.add_argument("--amp", action="store_true", help="automatic mixed precision")
    options.add_argument("--no-validate", action="store_true", help="train without validation")
    options.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the actual batch size over auto_scale_lr.base_batch_size",
    )
    return options.parse_args()


def merge(args: argparse.Namespace) -> Config:
    """The config with the command line's options merged in."""
    config = load_config(args)
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.amp:
        wrapper = config.optim_wrapper.get("type", "OptimWrapper")
        if getattr(wrapper, "__name__", wrapper) not in ("OptimWrapper", "AmpOptimWrapper"):
            raise SystemExit(
                f"--amp works with OptimWrapper and AmpOptimWrapper; the config has {wrapper}"
            )
        if get_device() == "cpu":  # where mmengine has none
            config.optim_wrapper.type = "BFloat16OptimWrapper"
            # mmpose computes the accuracy that it logs with numpy, which has no bfloat16.
            config.merge_from_dict({"model.train_cfg.compute_acc": False})
        else:
            config.optim_wrapper.type = "AmpOptimWrapper"
            config.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.resume not in (None, "auto"):
        config.resume, config.load_from = True, args.resume
    if args.auto_scale_lr:
        if "auto_scale_lr" not in config:
            raise SystemExit("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        config.auto_scale_lr.enable = True
    if args.show or args.show_dir is not None:
        draw_poses(config, args, show=args.show)
    config.merge_from_dict(args.cfg_options)
    if args.resume == "auto":
        # mmengine takes the latest checkpoint where load_from is None, and random weights where
        # there is no such checkpoint either.
        config.resume = find_latest_checkpoint(config.work_dir) is not None
        if config.resume:
            config.load_from = None
        else:
            start = config.get("load_from") or "random weights (load_from=None)"
            print_log(f"--resume: no checkpoint in {config.work_dir} yet; starts from {start}")
    return config


def main() -> None:
    args = parse_args()
    config = merge(args)
    try:
        with checkpoints_of(args):
            build_runner(config).train()
    except URLError as error:
        raise SystemExit(
            f"{config.load_from} was not downloaded ({error.reason}). Without a network: fetch it "
            "elsewhere and say --cfg-options load_from=FILE, or load_from=None to start afresh"
        ) from error


if __name__ == "__main__":
    main()
