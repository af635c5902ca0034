"""What a tool makes below a folder, and that nothing else is written over or removed."""

import hashlib
from pathlib import Path

import pytest

from skippose.files import Output, OutputRefused, replace_file


def tree(root: Path) -> dict[str, str]:
    """Every file and link below a folder, and what it holds."""
    return {
        path.relative_to(root).as_posix(): f"-> {path.readlink()}"
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out"


def make(output: Output, name: str = "run/clip", **files: str) -> Path:
    path = output.path(name)
    with output.folder(path) as folder:
        for key, text in (files or {"a": "1", "b": "2"}).items():
            (folder / f"{key}.txt").write_text(text)
    return path


def test_a_folder_appears_when_it_is_complete(root):
    output = Output(root, "tool")
    path = output.path("run/clip")
    with output.folder(path) as folder:
        assert folder.is_dir() and folder != path and not path.exists()
        (folder / "a.txt").write_text("1")
    assert tree(path).keys() == {"a.txt"} and not folder.exists()
    assert [p.name for p in path.parent.iterdir()] == ["clip"]


def test_what_the_tool_made_is_made_anew(root):
    make(Output(root, "tool"))
    path = make(Output(root, "tool"), c="3")
    assert tree(path).keys() == {"c.txt"}
    (path / "c.txt").unlink()  # what somebody took away is no reason to stop
    assert tree(make(Output(root, "tool"), d="4")).keys() == {"d.txt"}


def test_a_failure_leaves_what_was_there(root):
    output = Output(root, "tool")
    path = make(output)
    before = tree(root)
    with pytest.raises(KeyError), output.folder(path) as folder:
        (folder / "c.txt").write_text("3")
        raise KeyError
    assert tree(root) == before


def foreign_folder(path: Path) -> None:
    """Somebody else's, where the tool wants to put its own."""
    path.mkdir(parents=True)
    (path / "thesis.txt").write_text("mine")


def changed(path: Path) -> None:
    make(Output(path.parents[1], "tool"))
    (path / "a.txt").write_text("corrected by hand")


def added_to(path: Path) -> None:
    make(Output(path.parents[1], "tool"))
    (path / "notes.txt").write_text("mine")


def with_a_folder_inside(path: Path) -> None:
    make(Output(path.parents[1], "tool"))
    (path / "more").mkdir()
    (path / "more" / "thesis.txt").write_text("mine")


def made_by_another_tool(path: Path) -> None:
    make(Output(path.parents[1], "another tool"))


def replaced(path: Path) -> None:
    """The folder was taken away, and one of the same name was put there."""
    make(Output(path.parents[1], "tool"))
    path.rename(path.with_name("moved"))
    path.mkdir()
    (path / "a.txt").write_text("mine")


def file_of_that_name(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("mine")


def partial_of_that_name(path: Path) -> None:
    foreign_folder(path.with_name(f".{path.name}.partial"))


def link_to_a_folder(path: Path) -> None:
    foreign_folder(path.parents[2] / "elsewhere")
    path.parent.mkdir(parents=True)
    path.symlink_to(path.parents[2] / "elsewhere")


def link_above(path: Path) -> None:
    foreign_folder(path.parents[2] / "elsewhere" / path.name)
    path.parents[1].mkdir()
    path.parent.symlink_to(path.parents[2] / "elsewhere")


def linked_records(path: Path) -> None:
    """Not even a record is written elsewhere."""
    foreign_folder(path.parents[2] / "elsewhere")
    path.parents[1].mkdir()
    (path.parents[1] / ".made").symlink_to(path.parents[2] / "elsewhere")


def nonsense_for_a_record(path: Path) -> None:
    changed(path)
    for record in path.parents[1].rglob("*.json"):
        record.write_text("[{")


@pytest.mark.parametrize(
    "before",
    [
        foreign_folder, changed, added_to, with_a_folder_inside, made_by_another_tool, replaced,
        file_of_that_name, partial_of_that_name, link_to_a_folder, link_above, linked_records,
        nonsense_for_a_record,
    ],
)  # fmt: skip
def test_what_the_tool_did_not_make_stays(before, root):
    before(root / "run" / "clip")
    kept = tree(root.parent)
    with pytest.raises(OutputRefused, match="tool") as error:
        make(Output(root, "tool"))
    assert str(root) in str(error.value) and "\n" not in str(error.value)
    assert tree(root.parent) == kept


def test_an_empty_folder_is_nobodys(root):
    (root / "run" / "clip").mkdir(parents=True)
    assert tree(make(Output(root, "tool"))).keys() == {"a.txt", "b.txt"}


@pytest.mark.parametrize("path", ["../up", "a/../../up", "..", ".", "", "/elsewhere"])
def test_a_path_out_of_the_root_is_refused(path, root):
    with pytest.raises(OutputRefused, match="leads out of"):
        Output(root, "tool").path(path)


def test_a_file_is_written_anew_if_the_tool_wrote_it(root):
    output = Output(root, "tool")
    path = output.path("annotations/a.json")
    for text in (b"1", b"22", b"22", b"3"):
        Output(root, "tool").write(path, text)
        assert path.read_bytes() == text
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_file_of_somebody_elses_is_not_written_over(root):
    output = Output(root, "tool")
    path = output.path("annotations/a.json")
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for text in (b"ours", b"mine "):
        with pytest.raises(OutputRefused, match=r"annotations/a\.json: is there already"):
            output.write(path, text)
    output.write(path, b"mine")  # the same: nothing is lost
    output.write(path, b"ours")
    path.write_text("corrected by hand")
    with pytest.raises(OutputRefused):
        output.write(path, b"ours, newer")
    assert path.read_text() == "corrected by hand"
    path.unlink()
    path.symlink_to(root.parent / "precious")
    (root.parent / "precious").write_text("mine")
    with pytest.raises(OutputRefused, match="link"):
        output.write(path, b"ours")
    assert (root.parent / "precious").read_text() == "mine"


def test_an_interruption_leaves_a_file_that_the_next_run_knows(root, monkeypatch):
    path = Output(root, "tool").path("a.json")
    Output(root, "tool").write(path, b"first")
    real = Path.replace
    for stop in range(3):  # at the record of both, at the file, at the record of the new one
        counter = iter(range(9))

        def dies(self: Path, target: Path, stop: int = stop, counter=counter) -> Path:
            if next(counter) == stop:
                raise KeyboardInterrupt
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dies)
            with pytest.raises(KeyboardInterrupt):
                Output(root, "tool").write(path, f"second {stop}".encode())
        Output(root, "tool").write(path, f"third {stop}".encode())
        assert path.read_text() == f"third {stop}"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    replace_file(path, "Käse")
    assert path.read_bytes() == "Käse".encode()
    with pytest.raises(TypeError):
        replace_file(path, 3)
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [
        ("a.txt", "Käse")
    ]
