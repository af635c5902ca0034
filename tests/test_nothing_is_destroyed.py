"""No tool removes or writes over what it did not make: where the sources could do so."""

import ast

import pytest

from .sources import ROOT, calls, sources

REMOVING = {
    "os.remove", "os.removedirs", "os.rename", "os.renames", "os.replace", "os.rmdir",
    "os.truncate", "os.unlink", "shutil.move", "shutil.rmtree",
}  # fmt: skip
# Methods of paths; `replace` with one argument is none of strings.
METHODS = {"rename", "replace", "rmdir", "unlink"}
NO_PATHS = {"self.output.replace"}  # a tensor that the kernels of a plan share
# File -> what is removed there, and why it is the tool's own.
ALLOWED = {
    ".ci/environments.py": "its own temporary folder, and its log there",
    "skippose/files/output.py": "what a record says was made; and this is the place for it",
    "tools/dataset_converters/synthetic.py": "a note in .synthetic, which names its own clips",
}


def removals(text: str) -> list[int]:
    """Lines that remove or move a file or a folder."""
    found = []
    for line, name, call in calls(text):
        method = name.rpartition(".")[2]
        moves = method != "replace" or (len(call.args) == 1 and not call.keywords)
        of_a_path = "." in name and method in METHODS and moves and name not in NO_PATHS
        if name in REMOVING or (of_a_path and not name.startswith("dataclasses")):
            found.append(line)
    return sorted(found)


def test_nothing_is_removed_but_where_a_record_says_so():
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        if str(path.relative_to(ROOT)) not in ALLOWED
        for line in removals(path.read_text())
    }
    assert not found, f"use skippose.files.Output, which knows what was made: {sorted(found)}"


def test_the_exceptions_are_still_there():
    for path in ALLOWED:
        assert removals((ROOT / path).read_text()), path


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import shutil\nshutil.rmtree(x)", 2),
        ("from shutil import rmtree as away\naway(x)", 2),
        ("import os\n\nos.replace(a, b)", 3),
        ("Path(x).unlink()", 1),
        ("partial.replace(path)", 1),
        ("text.replace('a', 'b')", None),
        ("from dataclasses import replace\nreplace(x)", None),
        ("items.remove(x)", None),
    ],
)
def test_the_scan_sees(text, line):
    assert removals(text) == ([line] if line else [])


def test_names_of_data_come_through_the_helper():
    """Whoever joins a name from a split, an annotation or an id to a folder has to import it."""
    for path in (ROOT / "tools" / "dataset_converters").glob("*.py"):
        imported = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "skippose.files"
            for alias in node.names
        }
        assert "Output" in imported, path
