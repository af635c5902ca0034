"""The one place where a checkpoint is read, and where nothing that is in it runs."""

from __future__ import annotations

import pickle
import re
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._weights_only_unpickler as weights_only_unpickler
from torch import Tensor

from skippose.checkpoints.harmless import STAND_INS, made
from skippose.checkpoints.places import local_file

FLAG = "allow_checkpoint_code"
"""The argument that lets a checkpoint run code; tools call it ``--allow-checkpoint-code``."""

# Since then torch's own allow-list takes other objects under a pickle's names.
_NAMED_STAND_INS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)
_lock = threading.Lock()
_ARCHIVE = b"PK\x03\x04"
_BEGINNINGS = (_ARCHIVE, b"\x80")  # of what torch.save writes now, and wrote before 1.6


class CheckpointError(ValueError):
    """A file that is no checkpoint, or one that would run code."""


def load_checkpoint(
    name: str | Path, map_location: Any = "cpu", allow_checkpoint_code: bool = False
) -> Any:
    """What a checkpoint holds, as ``torch.load`` with ``weights_only=True`` gives it.

    Beyond tensors and Python's own types it may hold what mmengine's checkpoints do: arrays and
    numbers of numpy, and ``HistoryBuffer``.

    Args:
        name: a file, an address (http, https), or a name of mmengine's (``torchvision://resnet50``,
            ``open-mmlab://...``, ``mmcls://...``).
        map_location: as for ``torch.load``.
        allow_checkpoint_code: whether anything else is loaded too, which means that whoever made
            the checkpoint can run any code here. For files that you trust alone.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, or holds something else.
        FileNotFoundError: there is no such file.
        URLError: it was not downloaded.
    """
    path = local_file(name)
    with path.open("rb") as file:
        beginning = file.read(4)
    if not beginning.startswith(_BEGINNINGS):
        raise CheckpointError(
            f"{name} is no checkpoint: invalid load key {beginning!r}, expected a file that "
            "torch.save has written"
        )
    try:
        if allow_checkpoint_code:
            return torch.load(path, map_location=map_location, weights_only=False)
        if beginning == _ARCHIVE and "constants.pkl" in _members(path):
            raise pickle.UnpicklingError("TorchScript")  # before torch 2.6 it would run
        return made(_load(path, map_location))
    except Exception as error:  # a damaged file raises anything
        if isinstance(error, pickle.UnpicklingError) and not allow_checkpoint_code:
            raise CheckpointError(
                f"{name} is refused: it asks for more than weights ({_asked_for(error)}), which "
                "may run any code here when it is loaded. If you trust who made it: "
                f"--allow-checkpoint-code (in Python {FLAG}=True)"
            ) from error
        first_line = str(error).strip().partition("\n")[0][:200]
        raise CheckpointError(
            f"{name} is no checkpoint, or is damaged ({type(error).__name__}: {first_line})"
        ) from error


def weights_of(content: Any, name: str | Path) -> OrderedDict[str, Tensor]:
    """The weights in a checkpoint, which holds them as ``state_dict`` or is nothing else.

    Args:
        content: what `load_checkpoint` gave.
        name: what to call the checkpoint in an error.

    Returns:
        Tensors by name, with the versions of their modules (``_metadata``) if they are there.

    Raises:
        CheckpointError: there are none.
    """
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{name}: found a {type(state).__name__}, expected weights by name")
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(
            f"{name}: found a {type(state[other[0]]).__name__} as {other[0]!r}, expected a tensor"
        )
    weights = OrderedDict(state)
    weights._metadata = getattr(state, "_metadata", {})  # type: ignore[attr-defined]
    return weights


def _load(path: Path, map_location: Any) -> Any:
    if not _NAMED_STAND_INS:
        return _load_restricted(path, map_location)
    names: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    # The names are torch's, for the whole process: not taken away while another thread loads.
    with _lock, torch.serialization.safe_globals(names):
        return torch.load(path, map_location=map_location, weights_only=True)


def _members(path: Path) -> list[str]:
    """The names in an archive, as torch itself reads them."""
    return list(torch._C.PyTorchFileReader(str(path)).get_all_records())


def _asked_for(error: Exception) -> str:
    """What a checkpoint asks for, from torch's message of many lines."""
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    line = text.strip().partition("\n")[0]
    named = re.search(r"GLOBAL (\S+)", line)
    return named[1] if named else line.partition(". ")[0][:150].rstrip(".")


# -- before torch 2.6 ----------------------------------------------------------------------------


def _load_restricted(path: Path, map_location: Any) -> Any:
    """As ``weights_only=True``, which in these versions knows no stand-ins.

    Raises:
        UnpicklingError: for what is not allowed.
    """
    module = SimpleNamespace(Unpickler=_Unpickler, load=_load_pickle, __name__=__name__)
    return torch.load(path, map_location=map_location, pickle_module=module, weights_only=False)


def _load_pickle(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_python_unpickler: Any = pickle._Unpickler  # of it can be changed what it does for an opcode


class _Unpickler(_python_unpickler):
    """Python's own, which calls what the allow-list holds, and fills what it has made, alone."""

    def find_class(self, module: str, name: str) -> Any:
        found = f"{module.replace('__builtin__', 'builtins')}.{name}"
        allowed = {**weights_only_unpickler._get_allowed_globals(), **STAND_INS}
        if found not in allowed:
            raise pickle.UnpicklingError(f"GLOBAL {found}")
        return allowed[found]

    def _build(self) -> None:
        """BUILD: sets the state of an object, never an attribute of a class or a function."""
        kinds = (Tensor, torch.nn.Parameter, OrderedDict, *STAND_INS.values())
        if type(self.stack[-2]) not in kinds:
            raise pickle.UnpicklingError(f"a state for a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch = {**_python_unpickler.dispatch, pickle.BUILD[0]: _build}
