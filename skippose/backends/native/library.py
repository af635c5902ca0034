"""The compiled library: its structures, its functions, and why it may be absent."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int32, c_int64, c_uint8, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

INTERFACE = 1
"""``skp_version`` of the interface in ``src/skippose_native.h`` that this file describes."""
PATH = Path(__file__).parent / "libskippose.so"

Floats = POINTER(c_float)
Ints = POINTER(c_int32)


class Isa(IntEnum):
    """Instruction sets, ascending; the best that the CPU has is taken by default."""

    portable = 0
    avx2 = 1
    avx512 = 2
    avx512bf16 = 3
    amx = 4


class GateKind(IntEnum):
    """``SkpGate``."""

    none = 0
    input_norm = 1
    output = 2
    linear = 3


class ElementKind(IntEnum):
    """``SkpKind``."""

    sum = 0
    mul = 1
    max_pool = 2
    avg_pool = 3
    concat = 4
    resize = 5
    flatten = 6


class Slot(IntEnum):
    """How a slot's frame is computed; ``SkpSlot``."""

    live = 0
    dense = 1
    cut = 2


class Status(IntEnum):
    """What running a frame returns; ``SkpStatus``."""

    done = 0
    not_finite = 1
    no_memory = 2
    forked = 3


class BufferKind(IntEnum):
    """``SkpBufferKind``."""

    z = 0
    held = 1
    power = 2
    linear = 3
    scale = 4
    open = 5


def _ints(names: str) -> list[tuple[str, type]]:
    return [(name, c_int32) for name in names.split()]


class SkpConv(Structure):
    """A convolution; the fields are explained in ``src/skippose_native.h``."""

    _fields_ = [
        *_ints("input output nskip"),
        ("skip", c_int32 * 4),
        *_ints("kh kw sh sw top left dh dw groups oh ow step_y step_x at_y at_x"),
        *_ints("block_h block_w gate previous frame_source p normalize relative rectify"),
        *_ints("scale_of_output act level decides_cut"),
        *((name, c_float) for name in ("act_a", "act_b", "eps", "magnitude", "gain", "gate_bias")),
        *((name, Floats) for name in ("weight", "bias", "scale", "shift", "phi")),
    ]


class SkpElement(Structure):
    """Anything between convolutions."""

    _fields_ = [
        *_ints("kind output nsrc act level"),
        ("src", c_int32 * 8),
        ("factor_y", c_int32 * 8),
        ("factor_x", c_int32 * 8),
        *_ints("kh kw sh sw top left dh dw count_padding divisor"),
        ("act_a", c_float),
        ("act_b", c_float),
        ("scale", Floats),
        ("shift", Floats),
        *((name, Ints) for name in ("first_y", "second_y", "first_x", "second_x")),
        ("share_y", Floats),
        ("share_x", Floats),
    ]


class SkpBuffer(Structure):
    """Memory of the plan."""

    _fields_ = [("data", c_void_p), ("bytes", c_int64)]


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "skp_version": (c_int, []),
    "skp_best_isa": (c_int, []),
    "skp_has_isa": (c_int, [c_int]),
    "skp_new": (c_void_p, [c_int, c_int, c_int, c_int]),
    "skp_free": (None, [c_void_p]),
    "skp_add_map": (c_int, [c_void_p, c_int, c_int, c_int, c_int, c_int]),
    "skp_add_conv": (c_int, [c_void_p, POINTER(SkpConv)]),
    "skp_add_element": (c_int, [c_void_p, POINTER(SkpElement)]),
    "skp_finish": (c_int, [c_void_p]),
    "skp_run": (
        c_int,
        [c_void_p, Floats, POINTER(c_uint8), c_float, c_int, Ints, POINTER(Floats)],
    ),
    "skp_set_mask": (None, [c_void_p, c_int, POINTER(c_uint8)]),
    "skp_conv_buffer": (SkpBuffer, [c_void_p, c_int, c_int]),
    "skp_map_buffer": (SkpBuffer, [c_void_p, c_int, c_int]),
    "skp_last_frame": (SkpBuffer, [c_void_p]),
    "skp_begin": (None, [c_void_p]),
    "skp_map_pitch": (c_int, [c_void_p, c_int]),
    "skp_counts": (POINTER(c_int64), [c_void_p]),
    "skp_state_bytes": (c_int64, [c_void_p]),
    "skp_weight_bytes": (c_int64, [c_void_p]),
}


@cache
def load() -> tuple[Any, str | None]:
    """The library and None; or None and why it is not there."""
    if not PATH.exists():
        return None, (
            "it was not compiled when skippose was installed; with a C++ compiler, install again"
        )
    try:
        library = ctypes.CDLL(str(PATH))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return None, f"its library cannot be loaded ({error}); install skippose again"
    found = library.skp_version()
    if found != INTERFACE:
        return None, f"its library has interface {found}, expected {INTERFACE}; install again"
    return library, None


def has(isa: Isa) -> bool:
    """Whether this CPU and this build can run it."""
    library, _ = load()
    return library is not None and bool(library.skp_has_isa(int(isa)))


def best() -> Isa:
    """What is taken where nothing is said."""
    return Isa(load()[0].skp_best_isa())


__all__ = ["BufferKind", "ElementKind", "GateKind", "Isa", "SkpConv", "SkpElement", "load"]
