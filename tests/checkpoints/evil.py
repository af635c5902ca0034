"""Checkpoints that write a file when they are unpickled."""

from pathlib import Path
from typing import Any

import torch


class Writes:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def evil_checkpoint(path: Path, ran: Path, weights: Path | None = None, **more: Any) -> Path:
    """A checkpoint with the weights of another one, which writes the file ``ran`` when loaded."""
    content = {} if weights is None else torch.load(weights, "cpu", weights_only=True)
    torch.save({**content, **more, "extra": Writes(ran)}, path)
    return path
