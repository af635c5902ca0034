"""What a tool makes below a folder: only that does it write over or remove."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECORDS = ".made"
"""The folder below an output's root that says what was made there."""


class OutputRefused(OSError):
    """Something is in the way that the tool did not make."""


class Output:
    """The files and folders that a tool makes below a root.

    For each there is a record below ``.made``, with the SHA-256 of every file. What has no record,
    or has changed since, was made by somebody else: it is neither written over nor removed. Nor is
    anything written through a link that leads out of the root.

    Args:
        root: the output's folder; it need not exist.
        tool: what the records call the tool.
    """

    def __init__(self, root: Path, tool: str) -> None:
        self.root = root.resolve()
        self.tool = tool

    def path(self, *parts: str | Path) -> Path:
        """A path below the root.

        Raises:
            OutputRefused: it leads out of the root, or is a link itself.
        """
        path = self.root.joinpath(*parts)
        inside = path.parent.resolve() / path.name
        if path.is_symlink() or path.name in ("", "..") or self.root not in inside.parents:
            raise OutputRefused(
                f"{path}: leads out of {self.root}, or is a link, through which {self.tool} does "
                "not write; put a file or folder there, or write to another folder"
            )
        return inside

    def check(self, path: Path, content: bytes) -> None:
        """Whether a file may be written, of which nothing is lost.

        Raises:
            OutputRefused: there is another one that the tool did not make.
        """
        path = self.path(path)
        if not path.exists():
            return
        if path.is_file():
            found = path.read_bytes()
            if found == content or _digest(found) in (self._recorded(path) or {}).get("", []):
                return
        raise self._foreign(path)

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file, which appears under its name only when it is complete.

        Raises:
            OutputRefused: see :meth:`check`.
        """
        self.check(path, content)
        path = self.path(path)
        before = (self._recorded(path) or {}).get("", [])
        path.parent.mkdir(parents=True, exist_ok=True)
        # Both for a moment: an interruption must not leave a file that its record does not know.
        self._record(path, {"": [*before, _digest(content)]})
        replace_file(path, content)
        self._record(path, {"": [_digest(content)]})

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Makes a folder of files: yields an empty one, which takes its place at the end.

        It holds files alone. If the body raises, nothing is left of it, and the folder that was
        there before stays.

        Raises:
            OutputRefused: before anything else, if a folder is there in which something is not as
                the tool made it.
        """
        path = self.path(path)
        partial = self.path(path.parent, f".{path.name}.partial")
        self._check_folder(path)
        self._empty(partial)  # an interrupted run's
        # Recorded first: a folder of this name that is not recorded is somebody else's.
        self._record(partial, {})
        partial.mkdir(parents=True)
        try:
            yield partial
            made = {file.name: [_digest(file.read_bytes())] for file in sorted(partial.iterdir())}
            self._check_folder(path)
            self._empty(path)
            self._record(path, made)
            partial.replace(path)
        finally:
            self._empty(partial)
            self._record_of(partial).unlink(missing_ok=True)

    def _check_folder(self, path: Path) -> None:
        """Whether a folder may be removed."""
        if not path.exists():
            return
        if not path.is_dir():
            raise self._foreign(path)
        recorded = self._recorded(path) or {}
        for file in path.iterdir():
            known = recorded.get(file.name, [])
            if file.is_symlink() or not file.is_file() or _digest(file.read_bytes()) not in known:
                raise self._foreign(file)

    def _empty(self, path: Path) -> None:
        """Removes a folder of files that the tool has made, or has begun to make."""
        if not path.exists():
            return
        files = list(path.iterdir())
        if files and self._recorded(path) is None:
            raise self._foreign(path)
        for file in files:
            if file.is_dir() and not file.is_symlink():
                raise self._foreign(file)
            file.unlink()
        path.rmdir()

    def _foreign(self, path: Path) -> OutputRefused:
        return OutputRefused(
            f"{path}: is there already, and is not as {self.tool} has made it ({RECORDS} in "
            f"{self.root} says what it made); move it away, or write to another folder"
        )

    # -- records ---------------------------------------------------------------------------------

    def _record_of(self, path: Path) -> Path:
        return self.path(RECORDS, path.relative_to(self.root).parent, f"{path.name}.json")

    def _recorded(self, path: Path) -> dict[str, list[str]] | None:
        """Names and digests of a folder's files, or of the file itself as ``''``; None for what the
        tool has not made.
        """
        try:
            content = json.loads(self._record_of(path).read_text(encoding="utf-8"))
            return dict(content["files"]) if content["made_by"] == self.tool else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _record(self, path: Path, files: dict[str, list[str]]) -> None:
        record = self._record_of(path)
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, json.dumps({"made_by": self.tool, "files": files}).encode())


def replace_file(path: Path, content: bytes | str) -> None:
    """Writes a file (text as UTF-8), complete or not at all; a link is replaced, not followed."""
    # Under a name of this process's own, and only if nothing has it.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("xb") as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.close()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
