"""What has been measured already, so that an interrupted calibration goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skippose.files import replace_file

_BEGINNING = '{"identity": '


class Store:
    """Results by what they are results of, in one JSON file.

    A calibration draws nothing at random that its seed does not fix, so that the same calibration
    asks for the same things in the same order, and finds those of the run before.

    Args:
        path: the file; it need not be there.
        identity: of everything that all results depend on. A file of another one is started anew.

    Raises:
        ValueError: for a file that is no such store; it is left as it is.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.found: dict[str, Any] = {}
        self.reused = 0
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            try:
                content = json.loads(text)
                known, results = content["identity"], dict(content["results"])
            except (ValueError, KeyError, TypeError) as error:
                if not text.startswith(_BEGINNING):
                    raise ValueError(
                        f"{path}: not what a calibration has measured ({type(error).__name__}: "
                        f"{error}); move it away, or choose another folder for such files"
                    ) from error
                known, results = None, {}  # a store that something has cut off
            if known == identity:
                self.found = results

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
        replace_file(self.path, json.dumps({"identity": self.identity, "results": self.found}))
        return self.found[key]
