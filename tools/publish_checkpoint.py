#!/usr/bin/env python
"""Makes a small checkpoint for others: weights alone, in half precision.

    python tools/publish_checkpoint.py work_dirs/NAME/epoch_5.pth configs/demo/NAME.pth
    python tools/publish_checkpoint.py work_dirs/ONE/iter_9.pth work_dirs/OTHER/iter_9.pth MEAN.pth

Loaded with `load_from`, it fills a float32 network; batch norm's statistics stay in float32. Of
several checkpoints it is the mean, which makes sense where their trainings began with the same
weights (Wortsman et al., "Model soups", ICML 2022).
"""

import argparse
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from skippose.checkpoints import load_checkpoint, weights_of
from skippose.checkpoints.command_line import add_option
from skippose.files import replace_file


def publish(sources: Sequence[Path], target: Path, allow_checkpoint_code: bool = False) -> str:
    """Writes the small checkpoint; returns its SHA-256.

    Raises:
        CheckpointError: a source is no checkpoint, or asks for more than weights.
        ValueError: checkpoints of different networks.
    """
    weights, *others = [
        weights_of(load_checkpoint(source, "cpu", allow_checkpoint_code), source)
        for source in sources
    ]
    for source, other in zip(sources[1:], others, strict=True):
        if {n: t.shape for n, t in other.items()} != {n: t.shape for n, t in weights.items()}:
            raise ValueError(f"{source} is of another network than {sources[0]}")
    for name, tensor in weights.items():  # changed in place: it carries its modules' versions
        if tensor.is_floating_point():
            mean = torch.stack([tensor, *(other[name] for other in others)]).mean(0)
            weights[name] = mean if "running" in name else mean.half()
    content = io.BytesIO()
    torch.save({"state_dict": weights}, content)
    replace_file(target, content.getvalue())  # one that is there already stays until then
    return hashlib.sha256(content.getvalue()).hexdigest()


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "source", type=Path, nargs="+", help="a checkpoint of tools/train.py, or several"
    )
    options.add_argument("target", type=Path, help="where the small one goes (.pth)")
    add_option(options)
    args = options.parse_args()
    for source in args.source:
        if not source.is_file():
            options.error(f"{source}: no such checkpoint")
        if args.target.exists() and args.target.samefile(source):
            options.error(f"{source}: would be written over by what is made of it")
    try:
        digest = publish(args.source, args.target, args.allow_checkpoint_code)
    except ValueError as error:
        options.error(str(error))
    size = args.target.stat().st_size / 2**20
    print(f"{args.target}: {size:.1f} MiB, SHA-256 {digest}")


if __name__ == "__main__":
    main()
