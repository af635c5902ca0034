"""Names that come out of files: one part of a path and no more, or they are refused."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

LONGEST = 200
"""Bytes of a name; file systems take 255, and a tool puts something before and behind it."""

_SEPARATORS = re.compile(r"[/\\\x00-\x1f\x7f]+")


class NameRefused(ValueError):
    """A name that could lead elsewhere than into the folder that it is joined to."""


def plain_name(name: object, where: str) -> str:
    """A name from a file, which is safe to join to a folder.

    Args:
        name: what the file holds in the place of a name.
        where: what to call that place in an error.

    Returns:
        The name, unchanged.

    Raises:
        NameRefused: it is no string, is empty or too long, holds a slash, a backslash or a control
            character, begins with a dot (so do ``..`` and what tools keep for themselves) or with
            a drive's letter, or ends with a dot or a blank, which some systems drop.
    """
    reason = _reason(name)
    if reason or not isinstance(name, str):
        raise NameRefused(
            f"{where}: the name {name!r} {reason}; expected the name of a file or folder alone, "
            "which leads nowhere else"
        )
    return name


def plain_path(path: object, where: str) -> PurePosixPath:
    """A path from a file that leads downward only: plain names with slashes between them.

    Raises:
        NameRefused: a part of it is no :func:`plain_name`, as the first of an absolute path.
    """
    if not isinstance(path, str):
        return PurePosixPath(plain_name(path, where))
    return PurePosixPath(*(plain_name(part, f"{where}, path {path!r}") for part in path.split("/")))


def as_plain_name(text: str) -> str:
    """A plain name for something whose own name is no file's: ``run/a#0`` gives ``run_a#0``."""
    name = _bare(_SEPARATORS.sub("_", text.encode(errors="replace").decode()))
    if re.match(r"[A-Za-z]:", name):
        name = f"_{name}"
    while len(name.encode()) > LONGEST:
        name = _bare(name[:-1])
    return plain_name(name or "_", "a name")


def _bare(name: str) -> str:
    """Without dots and blanks at its ends."""
    before = None
    while name != before:
        before, name = name, name.strip().strip(".")
    return name


def _reason(name: object) -> str:
    """What is wrong with a name; empty if nothing is."""
    if not isinstance(name, str):
        return f"is a {type(name).__name__}"
    if not name:
        return "is empty"
    if found := _SEPARATORS.search(name):
        return f"holds {found[0]!r}"
    if re.match(r"[A-Za-z]:", name):
        return "begins with a drive's letter"
    if name.startswith("."):
        return "begins with a dot"
    if name.strip() != name or name.endswith("."):
        return "begins or ends with a blank or ends with a dot"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "holds what is no character"
    return f"has {size} bytes, more than {LONGEST}" if size > LONGEST else ""
