"""What the library and this package both know, read from the file that C++ includes.

Only Python's own modules are needed, so that ``setup.py`` can run this file by its path.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "src"
DEFINITION = SOURCES / "interface.def"
FILES = (DEFINITION, SOURCES / "skippose_native.h")
"""What the number of the interface is made of."""

_SCALARS = {"INT": ctypes.c_int32, "FLOAT": ctypes.c_float, "LONG": ctypes.c_int64}
_SCALARS["BYTES"] = ctypes.c_void_p
Floats = ctypes.POINTER(ctypes.c_float)
Ints = ctypes.POINTER(ctypes.c_int32)
_ARRAYS: dict[str, Any] = {"INTS": Ints, "FLOATS": Floats}
_TYPES: dict[str, Any] = {
    "void": None,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
    "int64_t": ctypes.c_int64,
    "void *": ctypes.c_void_p,
    "const uint8_t *": ctypes.c_void_p,
    "uint8_t *": ctypes.POINTER(ctypes.c_uint8),
    "const float *": Floats,
    "float *const *": ctypes.POINTER(Floats),
    "const int32_t *": Ints,
    "const int64_t *": ctypes.POINTER(ctypes.c_int64),
}


def number() -> int:
    """Of the interface as these files have it: another one wherever they differ."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in FILES)).digest()
    return int.from_bytes(digest[:8], "little")


class Interface:
    """The entries of a definition file.

    Attributes:
        enums: by the name of the enumeration in C++.
        structs: likewise, subclasses of ``ctypes.Structure``.
        lengths: for each structure the arrays that it points to, and the word for their length.
        functions: by name, the type of the result and those of the arguments.
    """

    def __init__(self, text: str) -> None:
        self.enums: dict[str, Any] = {}
        self.structs: dict[str, Any] = {}
        self.lengths: dict[str, dict[str, str]] = {}
        self.functions: dict[str, tuple[Any, list[Any]]] = {}
        self._constants: dict[str, int] = {}
        members: dict[str, int] = {}
        fields: list[tuple[str, Any]] = []
        lengths: dict[str, str] = {}
        for kind, arguments in _entries(text):
            name = arguments[0]
            if kind in ("ENTRY", "KIND"):
                c_name, name, value = arguments
                members[name] = self._constants[c_name] = int(value)
            elif kind == "END_ENUM":
                self.enums[name] = IntEnum(name, members)
                members = {}
            elif kind in _SCALARS:
                fields.append((name, _SCALARS[kind]))
            elif kind == "INT_ARRAY":
                fields.append((name, ctypes.c_int32 * self._constants[arguments[1]]))
            elif kind in _ARRAYS:
                fields.append((name, _ARRAYS[kind]))
                lengths[name] = arguments[1]
            elif kind == "END_STRUCT":
                self.structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
                self.lengths[name], fields, lengths = lengths, [], {}
            elif kind == "FUNCTION":
                self._function(*arguments)
            elif kind not in ("ENUM", "STRUCT"):
                raise ValueError(f"{DEFINITION.name} has an entry SKP_{kind}, which is not known")

    def _function(self, result: str, name: str, *arguments: str) -> None:
        types = [_declared(a) for a in arguments if a != "void"]
        self.functions[name] = (self._type(result), [self._type(t) for t in types])

    def _type(self, name: str) -> Any:
        if name in self.structs:
            return self.structs[name]
        struct = re.fullmatch(r"const (\w+) \*", name)
        if struct and struct[1] in self.structs:
            return ctypes.POINTER(self.structs[struct[1]])
        return _TYPES[name]


def _entries(text: str) -> list[tuple[str, list[str]]]:
    """(kind, arguments) of each entry, ``SKP_KIND(argument, ...)``."""
    lines = [line.partition("//")[0] for line in text.splitlines() if not line.startswith("#")]
    found = re.findall(r"SKP_(\w+)\(([^()]*)\)", "\n".join(lines))
    return [(kind, [a.strip() for a in re.split(r",\s*", inside)]) for kind, inside in found]


def _declared(argument: str) -> str:
    """The type of an argument, ``const float *frame``."""
    return re.sub(r"\w+$", "", argument).strip()


INTERFACE = Interface(DEFINITION.read_text())
