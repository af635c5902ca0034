#!/usr/bin/env python
"""Makes a small checkpoint for others: weights alone, in half precision.

    python tools/publish_checkpoint.py work_dirs/NAME/epoch_5.pth configs/demo/NAME.pth

Loaded with `load_from`, it fills a float32 network; batch norm's statistics stay in float32.
"""

import argparse
import hashlib
from pathlib import Path

import torch


def publish(source: Path, target: Path) -> str:
    """Writes the small checkpoint; returns its SHA-256."""
    checkpoint = torch.load(source, map_location="cpu", weights_only=False)
    weights = checkpoint["state_dict"]  # changed in place: it carries its modules' versions
    for name, tensor in weights.items():
        if tensor.is_floating_point() and "running" not in name:
            weights[name] = tensor.half()
    torch.save({"state_dict": weights}, target)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("source", type=Path, help="a checkpoint of tools/train.py")
    options.add_argument("target", type=Path, help="where the small one goes (.pth)")
    args = options.parse_args()
    if not args.source.is_file():
        options.error(f"{args.source}: no such checkpoint")
    digest = publish(args.source, args.target)
    size = args.target.stat().st_size / 2**20
    print(f"{args.target}: {size:.1f} MiB, SHA-256 {digest}")


if __name__ == "__main__":
    main()
