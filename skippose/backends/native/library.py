"""The compiled library, and why it may be absent."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from skippose.backends.native.interface import INTERFACE, number

PATH = Path(__file__).parent / "libskippose.so"

_ENUMS, _STRUCTS = INTERFACE.enums, INTERFACE.structs
Limit = _ENUMS["SkpLimit"]
Isa = _ENUMS["SkpIsa"]
"""Instruction sets, ascending; the best that the CPU has is taken by default."""
GateKind = _ENUMS["SkpGate"]
ActivationKind = _ENUMS["SkpAct"]
ElementKind = _ENUMS["SkpKind"]
Slot = _ENUMS["SkpSlot"]
Status = _ENUMS["SkpStatus"]
BufferKind = _ENUMS["SkpBufferKind"]
SkpConv = _STRUCTS["SkpConv"]
SkpElement = _STRUCTS["SkpElement"]

AGAIN = (
    "build it again with `python setup.py build_ext --inplace`, or install skippose again, with a "
    "C++ compiler"
)


@cache
def load() -> tuple[Any, str | None]:
    """The library and None; or None and why it is not there.

    One that was built from another definition of the interface is not called: what it says of
    itself is data.
    """
    if not PATH.exists():
        return None, (
            "it was not compiled when skippose was installed; with a C++ compiler, install again"
        )
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError as error:
        return None, f"its library cannot be loaded ({error}); {AGAIN}"
    try:
        found = ctypes.c_uint64.in_dll(library, "skp_interface").value
        sizes = list((ctypes.c_int32 * len(_STRUCTS)).in_dll(library, "skp_struct_bytes"))
    except ValueError:  # it does not have them
        found, sizes = 0, []
    expected = number()
    if found != expected:
        return None, (
            f"its library was built from other sources (interface {found:x}, expected "
            f"{expected:x}); {AGAIN}"
        )
    ours = {name: ctypes.sizeof(struct) for name, struct in _STRUCTS.items()}
    theirs = dict(zip(ours, sizes, strict=True))
    if ours != theirs:
        wrong = [name for name in ours if ours[name] != theirs[name]]
        return None, (
            f"its library lays out {', '.join(wrong)} otherwise ({theirs} bytes, expected {ours}); "
            f"{AGAIN}"
        )
    for name, (result, arguments) in INTERFACE.functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library, None


def has(isa: Any) -> bool:
    """Whether this CPU and this build can run an :data:`Isa`."""
    library, _ = load()
    return library is not None and bool(library.skp_has_isa(int(isa)))


def best() -> Any:
    """The :data:`Isa` that is taken where nothing is said."""
    return Isa(load()[0].skp_best_isa())
