"""mmengine, and all that loads through it, made to read checkpoints by `load_checkpoint`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.runner import CheckpointLoader

from skippose.checkpoints.loader import load_checkpoint, weights_of


@contextmanager
def checkpoints_run_no_code(allow_checkpoint_code: bool = False) -> Iterator[None]:
    """Whoever loads a checkpoint through mmengine meanwhile loads it by `load_checkpoint`.

    The runner does so (``load_from``, ``resume``), a config's ``init_cfg``, and the interfaces of
    mmpose and mmdet. mmengine by itself would load what runs code: before torch 2.6 at once, from
    then on where loading weights alone has failed.

    Args:
        allow_checkpoint_code: leaves mmengine as it is.
    """
    if allow_checkpoint_code:
        yield
        return
    before = CheckpointLoader._schemes
    # For every kind of address that mmengine knows, and others have registered.
    CheckpointLoader._schemes = OrderedDict.fromkeys(before, load_from_weights_only)
    try:
        yield
    finally:
        CheckpointLoader._schemes = before


def load_from_weights_only(filename: str, map_location: Any = None) -> Any:
    """A checkpoint for mmengine, which calls this a loader and names it in its log.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    content = load_checkpoint(filename, map_location)
    meta = content.get("meta") if isinstance(content, dict) else None
    if isinstance(meta, dict):
        # The text of a config: a runner that resumes would run it, to compare the number of GPUs.
        meta.pop("config", None)
    if filename.startswith("mmcls://"):
        prefix = "backbone."  # a classifier's, of which the rest is of no use here
        weights = weights_of(content, filename).items()
        state = {k.removeprefix(prefix): value for k, value in weights if k.startswith(prefix)}
        return {"state_dict": state}
    return content
