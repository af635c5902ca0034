"""Checkpoints: loaded without running what is in them, saved so that anybody can load them so."""

from .loader import FLAG, CheckpointError, load_checkpoint, weights_of
from .mmengine_loading import checkpoints_run_no_code
from .plain import from_plain, to_plain

__all__ = [
    "FLAG",
    "CheckpointError",
    "checkpoints_run_no_code",
    "from_plain",
    "load_checkpoint",
    "to_plain",
    "weights_of",
]
