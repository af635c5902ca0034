"""A checkpoint of mmengine's as Python's own types and tensors, and back."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import Tensor

from skippose.checkpoints.harmless import history

_HISTORY = {"log_history", "count_history", "max_length"}


def to_plain(content: Any) -> Any:
    """The same, without what ``torch.load`` with ``weights_only=True`` refuses.

    Arrays become tensors (of text: lists), numpy's numbers Python's, a ``Counter`` a dict (a
    schedule's milestones, which torch 2.1 does not take) and a ``HistoryBuffer`` a dict of what it
    holds. Containers in which nothing changes are the same objects; none is changed
    in place.
    """
    if isinstance(content, HistoryBuffer):
        log, count = content.data
        return {
            "log_history": to_plain(np.asarray(log)),
            "count_history": to_plain(np.asarray(count)),
            "max_length": content.max_length,
        }
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, np.ndarray):
        try:
            return torch.from_numpy(content.astype(content.dtype.newbyteorder("=")))
        except TypeError:  # a type that torch does not have
            return to_plain(content.tolist())
    if isinstance(content, ConfigDict):
        return to_plain(content.to_dict())
    if type(content) is Counter:
        return to_plain(dict(content))
    if type(content) in (dict, OrderedDict):
        items = {key: to_plain(value) for key, value in content.items()}
        same = all(items[key] is value for key, value in content.items())
        return content if same else type(content)(items)
    if type(content) in (list, tuple):
        parts = [to_plain(value) for value in content]
        same = all(a is b for a, b in zip(parts, content, strict=True))
        return content if same else type(content)(parts)
    return content


def from_plain(checkpoint: dict[str, Any]) -> None:
    """Puts back, in a checkpoint that `to_plain` was given, what mmengine reads there.

    The arrays that describe a data set, and ``HistoryBuffer`` s.
    """
    hub = checkpoint.get("message_hub")
    hub = hub if isinstance(hub, dict) else {}
    scalars = hub.get("log_scalars")
    scalars = scalars if isinstance(scalars, dict) else {}
    for key, value in scalars.items():
        if isinstance(value, dict) and value.keys() == _HISTORY:
            scalars[key] = history(
                value["log_history"], value["count_history"], value["max_length"]
            )
    for part in (checkpoint.get("meta"), hub.get("runtime_info")):
        if isinstance(part, dict) and "dataset_meta" in part:
            part["dataset_meta"] = _arrays(part["dataset_meta"])


def _arrays(content: Any) -> Any:
    """A data set's description with arrays for tensors."""
    if isinstance(content, Tensor):
        return content.cpu().numpy()
    if isinstance(content, dict):
        return type(content)((key, _arrays(value)) for key, value in content.items())
    if isinstance(content, list | tuple):
        return type(content)(_arrays(value) for value in content)
    return content
