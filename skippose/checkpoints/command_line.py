"""What command line tools share that load checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from skippose.checkpoints.loader import CheckpointError


def add_option(options: argparse.ArgumentParser) -> None:
    """Adds ``--allow-checkpoint-code``, which says what `load_checkpoint` may load."""
    options.add_argument(
        "--allow-checkpoint-code",
        action="store_true",
        help="load a checkpoint that holds more than weights, which may run any code here: for "
        "files alone whose maker you trust",
    )


@contextmanager
def refused_in_a_line() -> Iterator[None]:
    """Ends the program with one line where a checkpoint is refused."""
    try:
        yield
    except CheckpointError as error:
        raise SystemExit(f"error: {error}") from error
