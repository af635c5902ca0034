"""What has been measured already, so that an interrupted calibration goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Store:
    """Results by what they are results of, in one JSON file.

    A calibration draws nothing at random that its seed does not fix, so that the same calibration
    asks for the same things in the same order, and finds those of the run before.

    Args:
        path: the file; it need not be there.
        identity: of everything that all results depend on. A file of another one is started anew.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.found: dict[str, Any] = {}
        self.reused = 0
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:  # cut off while it was written by something else
                content = {}
            if content.get("identity") == identity:
                self.found = content["results"]

    def get(self, question: list[Any], answer: Callable[[], Any]) -> Any:
        """The result of a question: the known one, or a new one, which is kept.

        Args:
            question: what tells results apart, as JSON or arrays.
            answer: computes it, as JSON.
        """
        key = hashlib.sha256(json.dumps(question, default=np.ndarray.tolist).encode()).hexdigest()
        if key in self.found:
            self.reused += 1
            return self.found[key]
        self.found[key] = answer()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(
            json.dumps({"identity": self.identity, "results": self.found}), encoding="utf-8"
        )
        partial.replace(self.path)
        return self.found[key]
