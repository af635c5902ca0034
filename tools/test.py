#!/usr/bin/env python
"""Tests a model: PCK beside GMACs and sparsity. The options are those of mmpose's tools/test.py.

python tools/test.py configs/skip_hrnet_w32.py work_dirs/skip_hrnet_w32/epoch_20.pth
python tools/test.py CONFIG CHECKPOINT --out metrics.json --dump predictions.pkl
"""

import argparse
from pathlib import Path
from typing import Any

import mmengine
from _options import (
    build_runner,
    check_output,
    checkpoints_of,
    draw_poses,
    hook_config,
    load_config,
    parser,
)
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

import skippose  # noqa: F401  (registers its models, data sets and metrics)


class SaveMetrics(Hook):
    """Writes the metrics of the test to a file (.json, .yml or .pkl)."""

    priority = "LOWEST"

    def __init__(self, path: str) -> None:
        self.path = path

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if metrics is not None:
            mmengine.dump(metrics, self.path)


def parse_args() -> argparse.Namespace:
    options = parser("Test a pose model")
    options.add_argument("checkpoint", help="checkpoint file")
    options.add_argument("--out", help="file for the metrics (.json, .yml or .pkl)")
    options.add_argument("--dump", metavar="PKL", help="file for the predictions of every frame")
    options.add_argument(
        "--badcase", action="store_true", help="keep the samples that are predicted badly"
    )
    args = options.parse_args()
    if args.dump is not None and not args.dump.endswith((".pkl", ".pickle")):
        options.error(f"--dump writes a .pkl or .pickle file, not {args.dump}")
    if args.out is not None and not args.out.endswith(
        (".json", ".yml", ".yaml", ".pkl", ".pickle")
    ):
        options.error(f"--out writes a .json, .yml or .pkl file, not {args.out}")
    for name in ("out", "dump"):
        if getattr(args, name) is not None:
            check_output(options, f"--{name}", Path(getattr(args, name)))
    return args


def watch_bad_cases(config: Config, args: argparse.Namespace) -> None:
    """Switches mmpose's BadCaseAnalysisHook on."""
    hook = hook_config(config, "badcase", "--badcase")
    hook.update(enable=True, show=args.show, interval=args.interval)
    if args.show:
        hook["wait_time"] = args.wait_time
    kind = hook.get("metric_type", "loss")
    if kind not in ("loss", "accuracy"):
        raise SystemExit(f"default_hooks.badcase.metric_type is {kind!r}: loss or accuracy")
    if not hook.get("metric"):
        hook["metric"] = config.model.head.loss if kind == "loss" else first_metric(config)


def first_metric(config: Config) -> Any:
    """The metric that judges a sample when the config names none: the evaluator's first."""
    found = config.test_evaluator
    while isinstance(found, list | tuple) or "metrics" in found:
        found = found[0] if isinstance(found, list | tuple) else found["metrics"]
    return found


def merge(args: argparse.Namespace) -> Config:
    """The config with the command line's options merged in."""
    config = load_config(args)
    if args.show_dir is not None or (args.show and not args.badcase):
        draw_poses(config, args, show=args.show and not args.badcase)
    if args.badcase:
        watch_bad_cases(config, args)
    if args.dump is not None:
        evaluators = config.test_evaluator
        evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
        config.test_evaluator = [*evaluators, dict(type="DumpResults", out_file_path=args.dump)]
    config.merge_from_dict(args.cfg_options)
    # After the options: a `load_from=None` kept from training must not test random weights.
    config.load_from = args.checkpoint
    return config


def main() -> None:
    args = parse_args()
    with checkpoints_of(args):
        runner = build_runner(merge(args))
        if args.out is not None:
            runner.register_hook(SaveMetrics(args.out))
        runner.test()


if __name__ == "__main__":
    main()
