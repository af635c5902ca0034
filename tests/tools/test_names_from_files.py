"""Names in the files that tools read lead nowhere else, and what others made stays."""

import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

pytest.importorskip("mmpose")

from .conftest import write_posetrack18

ROOT = Path(__file__).parents[2]
CONVERTERS = ROOT / "tools" / "dataset_converters"


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"names_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def tree(root: Path) -> dict[str, str]:
    """Every file below a folder, links followed or not, and what it holds."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


# -- what each converter reads, with a name in it ------------------------------------------------

EVIL = ["../../../precious", "/precious", "..", ".", "", "a\\..\\b", "..\\precious", "C:x", ".hid"]


def jhmdb(src: Path, clip: str = "clip", action: str = "wave") -> list[str]:
    """One clip of two frames, wherever its name leads below the source."""
    (src / "splits").mkdir(parents=True, exist_ok=True)
    for k in (1, 2, 3):
        (src / "splits" / f"{action}_test_split{k}.txt").write_text(f"{clip}.avi 2\n")
    joints, masks = np.full((2, 15, 2), 9.0), np.ones((24, 32, 2), np.uint8)
    for kind in ("Rename_Images", "joint_positions", "puppet_mask"):
        folder = src / kind / action / clip
        if clip.startswith("/"):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "Rename_Images":
            for t in (1, 2):
                cv2.imwrite(str(folder / f"{t:05d}.png"), np.zeros((24, 32, 3), np.uint8))
        else:
            array = {"pos_img": joints} if kind == "joint_positions" else {"part_mask": masks}
            savemat(folder / f"{kind}.mat", array)
    return ["--src", str(src), "--workers", "1"]


def posetrack18(src: Path, file_name: str | None = None) -> list[str]:
    """Three videos; the first frame of the second under another name."""
    write_posetrack18(src)
    if file_name is not None:
        path = src / "annotations" / "val" / "000002_mpii.json"
        content = json.loads(path.read_text())
        # The file is there, so that the name alone is at fault.
        there = src / content["images"][0]["file_name"]
        if not file_name.startswith("/") and file_name not in ("", ".", ".."):
            (src / file_name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there, src / file_name)
        content["images"][0]["file_name"] = file_name
        path.write_text(json.dumps(content))
    return ["--src", str(src)]


def synthetic(src: Path) -> list[str]:
    """Reads no names; what it writes is named by itself."""
    return ["--clips", "4", "--workers", "1"]


READS: dict[str, Callable[[Path], list[str]]] = {
    "jhmdb": jhmdb,
    "posetrack18": posetrack18,
    "synthetic": synthetic,
}
NAMES: dict[str, dict[str, Callable[[Path, str], list[str]]]] = {
    "jhmdb": {
        "clip in a split": jhmdb,
        "class in a split's name": lambda src, name: jhmdb(src, action=name),
    },
    "posetrack18": {
        "file_name": posetrack18,
        "video's file": lambda src, name: _renamed(src, name),
    },
    "synthetic": {},
}


def _renamed(src: Path, name: str) -> list[str]:
    options = posetrack18(src)
    path = src / "annotations" / "val" / "000002_mpii.json"
    path.rename(path.with_name(f"{name}.json"))
    return options


def of_a_file(name: str) -> bool:
    """Whether a file can be called so."""
    return bool(name) and "/" not in name and name not in (".", "..")


CASES = [
    (tool, kind, name)
    for tool, kinds in NAMES.items()
    for kind in kinds
    for name in EVIL
    if kind not in ("class in a split's name", "video's file") or of_a_file(name)
]


def test_every_converter_is_tested():
    there = {path.stem for path in CONVERTERS.glob("*.py") if not path.stem.startswith("_")}
    assert there == READS.keys() == NAMES.keys()


@pytest.mark.parametrize(("tool", "kind", "name"), CASES)
def test_a_name_that_leads_elsewhere_is_refused(tool, kind, name, tmp_path, monkeypatch, capfd):
    module = load(CONVERTERS / f"{tool}.py", monkeypatch)
    options = NAMES[tool][kind](tmp_path / "src", name)
    out = tmp_path / "a" / "b" / "out"
    victim = tmp_path / "a" / "precious"
    victim.mkdir(parents=True)
    (victim / "thesis.txt").write_text("mine")
    before = tree(tmp_path)
    assert module.main([*options, "--out", str(out)]) == 1
    said = capfd.readouterr()
    text = "".join((said.out + said.err).split())  # tables break lines anywhere
    assert repr(name)[:-1] in text, text  # an ending may follow
    assert "expectedthenameofafile" in text or not name and "withoutfile_name" in text, text
    assert "Traceback" not in said.err
    assert tree(tmp_path) == before and not out.exists()


# -- what is there already -----------------------------------------------------------------------


def annotation_of_others(root: Path) -> Iterator[Path]:
    for name in ("Sub1_test.json", "posetrack18_val.json"):
        yield root / "annotations" / name


@pytest.fixture(params=READS)
def converter(request, tmp_path, monkeypatch) -> Callable[[Path], int]:
    """Runs a converter on good data."""
    module = load(CONVERTERS / f"{request.param}.py", monkeypatch)
    options = READS[request.param](tmp_path / "src")

    def run(out: Path) -> int:
        return module.main([*options, "--out", str(out)])

    return run


def test_a_second_run_changes_nothing(converter, tmp_path):
    out = tmp_path / "out"
    assert converter(out) == 0
    before = tree(out)
    assert converter(out) == 0
    assert tree(out) == before


def test_an_annotation_of_others_is_not_written_over(converter, tmp_path, capsys):
    out = tmp_path / "out"
    assert converter(out) == 0
    for path in sorted((out / "annotations").rglob("*.json")):
        text = path.read_text()
        path.write_text(text.replace("person", "Person") + " ")  # corrected by hand
        before = tree(out)
        assert converter(out) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and path.name in said and "is there already" in said
        assert tree(out) == before
        path.write_text(text)


def test_frames_of_others_are_not_removed(converter, tmp_path, capsys):
    out = tmp_path / "out"
    assert converter(out) == 0
    clips = sorted({path.parent for path in out.glob("Rename_Images/*/*/*.png")})
    if not clips:
        return  # PoseTrack18's stay where they are
    (clips[0] / "00001.png").unlink()  # so that the clip has to be made again
    (clips[0] / "thesis.txt").write_text("mine")
    before = tree(out)
    assert converter(out) == 1
    assert "thesis.txt: is there already" in capsys.readouterr().err
    assert tree(clips[0]) == {
        path.removeprefix(clips[0].relative_to(out).as_posix() + "/"): digest
        for path, digest in before.items()
        if path.startswith(clips[0].relative_to(out).as_posix() + "/")
    }
    (clips[0] / "thesis.txt").unlink()
    assert converter(out) == 0 and (clips[0] / "00001.png").is_file()


@pytest.mark.parametrize("folder", ["Rename_Images", "annotations"])
def test_nothing_is_written_through_a_link(converter, folder, tmp_path, capsys):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("mine")
    out.mkdir()
    (out / ".synthetic").mkdir()  # so that the synthetic tool goes on
    (out / folder).symlink_to(elsewhere)
    code = converter(out)
    if code == 0:
        assert folder == "Rename_Images" and not list(out.glob("Rename_Images/*/*"))
    else:
        assert "leads out of" in capsys.readouterr().err
    assert tree(elsewhere).keys() == {"thesis.txt"}


# -- other tools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../pyproject", "/etc/passwd", ".hidden", "a\\b"])
def test_a_page_names_tables_of_results_alone(name, tmp_path, monkeypatch):
    tool = load(ROOT / "tools" / "results_page.py", monkeypatch)
    page = tmp_path / "page.md"
    page.write_text(f"<!-- table {name} -->\nold\n<!-- end -->\n")
    with pytest.raises(SystemExit, match=r"page\.md: <!-- table .*expected the name"):
        tool.main([str(page)])
    assert "old" in page.read_text()


@pytest.mark.parametrize("clip_id", ["../..#0", "a/..#../../x", "/etc/a#0", "a#..", "..", "a\0b#1"])
def test_a_clip_of_any_id_stays_in_its_folder(clip_id, tmp_path, monkeypatch):
    """Ids are made of what annotation files say: names of folders, and track ids."""
    tool = load(ROOT / "tools" / "visualize_gates.py", monkeypatch)
    args = tool.parse_args(["config.py", "x.pth", "--out", str(tmp_path / "a" / "out"), "--gif"])
    picture = np.zeros((4, 4, 3), np.uint8)

    class Clip:
        records = {"backbone.conv1": None}
        even_frames = staticmethod(lambda count: [0])
        pictures = staticmethod(lambda *_: {"pose": picture, "cost": picture})
        animation = staticmethod(lambda *_: [picture])

    monkeypatch.setattr(tool, "run_clip", lambda *_: Clip)
    sample: Any = type("Sample", (), {"clip_id": clip_id})
    folder = tool.draw(None, dict(inputs=[0], data_samples=[sample]), (), args)
    assert folder.resolve().parent == (tmp_path / "a" / "out").resolve()
    assert {path.name for path in folder.iterdir()} >= {"pose.png", "overview.png", "gates.gif"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_a_checkpoint_is_not_written_over_by_what_is_made_of_it(tmp_path, monkeypatch, capsys):
    tool = load(ROOT / "tools" / "publish_checkpoint.py", monkeypatch)
    path = tmp_path / "epoch_5.pth"
    path.write_bytes(b"hours of training")
    monkeypatch.setattr(sys, "argv", ["publish", str(path), str(path)])
    with pytest.raises(SystemExit):
        tool.main()
    assert "would be written over" in capsys.readouterr().err
    assert path.read_bytes() == b"hours of training"
