"""The project's own sources, for tests that look for calls which must not be there."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "benchmarks", "configs", "results", "skippose", "tools")


def sources() -> list[Path]:
    """All Python files but the tests."""
    found = [path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py"))]
    assert len(found) > 150, found
    return [ROOT / "setup.py", *found]


def calls(text: str) -> Iterator[tuple[int, str, ast.Call]]:
    """The calls in a source: line, dotted name (``np.load``, ``?.unlink`` on an expression)."""
    tree = ast.parse(text)
    # What a module is called here: `import numpy as np`, `from shutil import rmtree`.
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts: list[str] = []
            function = node.func
            while isinstance(function, ast.Attribute):
                parts.insert(0, function.attr)
                function = function.value
            first = names.get(function.id, function.id) if isinstance(function, ast.Name) else "?"
            yield node.lineno, ".".join([first, *parts]), node


def keyword(call: ast.Call, name: str) -> object:
    """The value that a call gives an argument by its name, if it is written out; else None."""
    for given in call.keywords:
        if given.arg == name and isinstance(given.value, ast.Constant):
            return given.value.value
    return None
