"""The few things besides tensors that checkpoints of mmengine hold, rebuilt from bare data.

A pickle names functions and classes, which unpickling calls. For the names that mmengine's
checkpoints need (arrays and numbers of numpy, ``HistoryBuffer``) there are stand-ins here, which
take the data and call nothing: numpy's own would take a pickle's word for how memory is laid out.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

_KINDS = "biufcSU"  # of numpy's types: numbers and text; no objects, no records
_STATISTICS = ("min", "max", "current", "mean")


class Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        self.code, self.order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def made(self) -> np.dtype:
        """The type itself."""
        found = np.dtype(self.code)
        if found.kind not in _KINDS:
            raise UnpicklingError(f"an array of numpy's {found}")
        # A little endian's bytes may have come to a big endian.
        return np.dtype(self.order + found.str[1:]) if self.order in ("<", ">") else found


class Array:
    """Stands for ``numpy.ndarray``; its content comes after it is made."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> np.ndarray:
        """The array itself."""
        _, shape, kind, fortran, content = self.state
        return _array(kind, tuple(shape), content, "F" if fortran else "C")


class History:
    """Stands for mmengine's ``HistoryBuffer``."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> HistoryBuffer:
        """The buffer itself, with mmengine's own statistics."""
        log, count = self.state["_log_history"], self.state["_count_history"]
        return history(log.made(), count.made(), self.state["max_length"])


def history(log: Any, count: Any, max_length: int) -> HistoryBuffer:
    """A buffer of so many values and counts, arrays or tensors (T,)."""
    return HistoryBuffer(log.tolist(), count.tolist(), int(max_length))


def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """Stands for the function with which a pickled array begins."""
    if kind is not Array:
        raise UnpicklingError("an array of another class than numpy's")
    return Array()


def scalar(kind: Any, content: Any) -> Any:
    """Stands for the function that makes a pickled number of numpy."""
    return _array(kind, (), content, "C")[()]


def attribute(owner: Any, name: Any) -> str:
    """Stands for ``getattr``, by which a pickled ``HistoryBuffer`` names its own statistics."""
    if owner is not History or name not in _STATISTICS:
        raise UnpicklingError("builtins.getattr")
    return name


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands for ``_codecs.encode``, by which a pickle of protocol 2 writes bytes."""
    return str(text).encode(_text(encoding))


def no_bytes() -> bytes:
    """Stands for ``bytes``, by which a pickle of protocol 2 writes none at all."""
    return b""


STAND_INS: dict[str, Any] = {
    "_codecs.encode": encode,
    "builtins.bytes": no_bytes,
    "builtins.getattr": attribute,
    "builtins.set": set,
    "collections.Counter": Counter,
    "mmengine.logging.history_buffer.HistoryBuffer": History,
    "numpy._core.multiarray._reconstruct": reconstruct,
    "numpy._core.multiarray.scalar": scalar,
    "numpy.core.multiarray._reconstruct": reconstruct,  # numpy 1's name for it
    "numpy.core.multiarray.scalar": scalar,
    "numpy.dtype": Type,
    "numpy.ndarray": Array,
}
"""What a pickle names -> what stands for it."""


def made(content: Any) -> Any:
    """What was loaded, with the things themselves in the place of their stand-ins.

    Raises:
        UnpicklingError: what is there is none of the things that it claims to be.
    """
    try:
        return _made(content, {})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnpicklingError(f"damaged data ({type(error).__name__}: {error})") from error


def _made(content: Any, known: dict[int, tuple[Any, Any]]) -> Any:
    """Containers are changed in place, each once: they may hold one another, or themselves.

    ``known`` keeps what it has seen, so that no other object takes its id.
    """
    if id(content) in known:
        return known[id(content)][1]
    kind = type(content)
    if kind in (Type, Array, History):
        known[id(content)] = content, content.made()
    elif kind in (dict, OrderedDict):
        known[id(content)] = content, content
        for key, value in content.items():
            content[key] = _made(value, known)
    elif kind is list:
        known[id(content)] = content, content
        content[:] = [_made(value, known) for value in content]
    elif kind is tuple:
        parts = tuple(_made(value, known) for value in content)
        changed = any(a is not b for a, b in zip(parts, content, strict=True))
        known[id(content)] = content, parts if changed else content
    else:
        return content
    return known[id(content)][1]


def _array(kind: Any, shape: tuple[int, ...], content: Any, order: Any) -> np.ndarray:
    """An array from its bytes, which must be as many as it needs."""
    found = kind.made()
    raw = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * found.itemsize:
        raise ValueError(f"{len(raw)} bytes for {shape} numbers of {found}")
    made = np.empty(shape, found, order)
    if made.size:  # there is no array over nothing
        made[...] = np.frombuffer(raw, found).reshape(shape, order=order)
    return made


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
