"""The command line options that tools share, tools/train.py and tools/test.py above all."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.runner import Runner

from skippose.checkpoints import checkpoints_run_no_code
from skippose.checkpoints.command_line import add_option, refused_in_a_line
from skippose.engine import PlainCheckpointHook


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that mmpose's train and test tools have in common."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("config", help="config file")
    options.add_argument(
        "--work-dir", help="folder for logs and results (default: work_dirs/<config's name>)"
    )
    options.add_argument("--show-dir", help="folder for pictures of the predicted poses")
    options.add_argument("--show", action="store_true", help="show these pictures in a window")
    options.add_argument(
        "--interval", type=int, default=1, help="draw every n-th sample (default: 1)"
    )
    options.add_argument(
        "--wait-time", type=float, default=1, help="seconds that a window stays (default: 1)"
    )
    options.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="override settings of the config, after all other options: "
        "model.backbone.gate.eps=0.1 load_from=None; a list as key=a,b or key='[a,b]', "
        "without blanks",
    )
    options.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what starts the processes of a distributed run (torchrun: pytorch)",
    )
    add_option(options)
    # torch.distributed.launch passes it in either spelling.
    options.add_argument("--local_rank", "--local-rank", type=int, default=0)
    return options


@contextmanager
def checkpoints_of(args: argparse.Namespace) -> Iterator[None]:
    """What a runner loads meanwhile runs no code, unless the command line allows it."""
    with checkpoints_run_no_code(args.allow_checkpoint_code), refused_in_a_line():
        yield


def check_output(options: argparse.ArgumentParser, name: str, path: Path) -> None:
    """Ends with an error, before any work, if a file cannot be written."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    there = path if path.exists() else folder
    if path.is_dir() or not folder.is_dir() or not os.access(there, os.W_OK):
        options.error(f"{name} {path} cannot be written")


def load_config(args: argparse.Namespace) -> Config:
    """Reads the config and sets launcher and work directory (option, else config, else name)."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    config = Config.fromfile(args.config)
    config.launcher = args.launcher
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    return config


def build_runner(config: Config) -> Runner:
    """mmengine's runner; on a machine without an accelerator under torchrun too.

    There mmengine would ask for a CUDA device, to join the processes and to wrap the network.
    """
    if config.launcher == "pytorch" and get_device() == "cpu" and not is_distributed():
        torch.distributed.init_process_group("gloo")
        wrapper = dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=config.get("find_unused_parameters", False),
        )
        config.setdefault("model_wrapper_cfg", wrapper)
    runner = Runner.from_cfg(config)
    if not any(isinstance(hook, PlainCheckpointHook) for hook in runner.hooks):
        runner.register_hook(PlainCheckpointHook())  # a config of one's own may not have it
    return runner


def hook_config(config: Config, name: str, option: str) -> dict:
    """The config of a default hook that an option of the command line needs."""
    if name not in config.default_hooks:
        raise SystemExit(
            f"{option} needs default_hooks.{name}, which the config does not have; it has "
            f"{sorted(config.default_hooks)}"
        )
    return config.default_hooks[name]


def draw_poses(config: Config, args: argparse.Namespace, show: bool) -> None:
    """Switches mmpose's PoseVisualizationHook on."""
    hook = hook_config(config, "visualization", "--show and --show-dir")
    hook.update(enable=True, show=show, out_dir=args.show_dir, interval=args.interval)
    if args.show:
        hook["wait_time"] = args.wait_time
