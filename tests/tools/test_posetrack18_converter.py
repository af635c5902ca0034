"""The PoseTrack18 converter: what it merges, what it checks, and what it refuses."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SKIPPOSE_TEST_DATA", ROOT / ".." / "shared" / "data"))

_spec = importlib.util.spec_from_file_location(
    "posetrack18_converter", ROOT / "tools" / "dataset_converters" / "posetrack18.py"
)
posetrack18_tool = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = posetrack18_tool
_spec.loader.exec_module(posetrack18_tool)

VIDEOS = {"train": ["000001_mpii"], "val": ["000002_mpii", "000003_mpii"]}


def run(src: Path, out: Path, *options: str) -> int:
    return posetrack18_tool.main(["--src", str(src), "--out", str(out), *options])


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def video_file(root: Path, name: str = "val/000002_mpii") -> Path:
    return root / "annotations" / f"{name}.json"


def change(root: Path, by: Callable[[dict], object], name: str = "val/000002_mpii") -> None:
    """Changes a video's annotation file."""
    content = read(video_file(root, name))
    by(content)
    video_file(root, name).write_text(json.dumps(content))


def test_the_files_of_each_set_are_merged_whole(posetrack18, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(posetrack18, out) == 0
    for name, videos in VIDEOS.items():
        parts = [read(video_file(posetrack18, f"{name}/{video}")) for video in videos]
        merged = read(out / "annotations" / f"posetrack18_{name}.json")
        assert merged["categories"] == parts[0]["categories"]
        listed = [image for part in parts for image in part["images"]]
        assert [image["id"] for image in merged["images"]] == [image["id"] for image in listed]
        assert all((i["width"], i["height"]) == (128, 96) for i in merged["images"])
        expected = [a for part in parts for a in part["annotations"]]
        for found, original in zip(merged["annotations"], expected, strict=True):
            assert found == {"iscrowd": False, **original}
        for video in videos:  # the metric reads the single files
            copied = out / "annotations" / name / f"{video}.json"
            assert copied.read_bytes() == video_file(posetrack18, f"{name}/{video}").read_bytes()
        assert all((out / image["file_name"]).is_file() for image in merged["images"])
    assert not (out / "annotations" / "posetrack18_test.json").exists()
    said = capsys.readouterr().out
    assert "0 bad" in said and "posetrack18_val.json" in said.replace("\n", "")
    # val: 2 videos, 14 frames, 11 of them labelled, 3 tracks
    assert any(
        [cell.strip() for cell in line.split("│")[1:-1]][:5] == ["val", "2", "14", "11", "3"]
        for line in said.splitlines()
    ), said


def test_in_place(posetrack18):
    before = video_file(posetrack18).read_bytes()
    assert run(posetrack18, posetrack18) == 0
    assert video_file(posetrack18).read_bytes() == before
    assert (posetrack18 / "annotations" / "posetrack18_train.json").is_file()
    assert not (posetrack18 / "images").is_symlink()


def test_missing_boxes_are_made_from_joints_and_what_has_neither_is_left_out(
    posetrack18, tmp_path, capsys
):
    def strip(content: dict) -> None:
        first, second, third = content["annotations"][:3]
        del first["bbox"]
        first["keypoints"] = [10, 20, 1, 30, 60, 1, 500, 500, 0] + [0] * 42
        del second["bbox"]
        second["keypoints"] = [0] * 51
        del third["keypoints"]

    change(posetrack18, strip)
    total = len(read(video_file(posetrack18))["annotations"])
    other = len(read(video_file(posetrack18, "val/000003_mpii"))["annotations"])
    assert run(posetrack18, tmp_path / "out") == 0
    merged = read(tmp_path / "out" / "annotations" / "posetrack18_val.json")
    assert len(merged["annotations"]) == total - 2 + other
    # 20x40 pixels around (20, 40), 1.3 times as large
    assert merged["annotations"][0]["bbox"] == pytest.approx([7, 14, 26, 52])
    assert "1 boxes made from joints; 2 annotations" in capsys.readouterr().out


def frame_of(root: Path, number: int = 3) -> Path:
    return root / "images" / "val" / "000002_mpii" / f"{number:06d}.jpg"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: frame_of(root).unlink(), "000003.jpg: listed, but missing"),
        (lambda root: cut(frame_of(root)), "000003.jpg: empty or cut off"),
        (lambda root: frame_of(root).write_bytes(b""), "empty or cut off (0 bytes)"),
        (
            lambda root: frame_of(root).write_bytes(b"no picture" + b"\xff\xd9"),
            "000003.jpg: not an image",
        ),
        (
            lambda root: change(root, lambda c: c["annotations"][0].pop("track_id")),
            "1 annotations without track_id in image 20000000",
        ),
        (
            lambda root: change(root, lambda c: c["annotations"][1].update(track_id=0)),
            "track_id 0 2 times in image 20000000",
        ),
        (
            lambda root: change(root, lambda c: c["annotations"][1].update(id=2000000000)),
            "1 ids of annotations occur twice, 2000000000 first",
        ),
        (
            lambda root: change(root, lambda c: c["images"][1].update(id=20000000)),
            "1 ids of images occur twice, 20000000 first",
        ),
        (
            lambda root: change(root, lambda c: c["annotations"][0].update(image_id=5)),
            "1 annotations of image 5, not listed",
        ),
        (
            lambda root: change(root, lambda c: c["annotations"][0].update(keypoints=[1, 2, 1])),
            "annotation 2000000000 has 3 numbers as keypoints, expected 51",
        ),
        (
            lambda root: change(root, lambda c: c["annotations"][0].update(bbox=[1, 2, 3])),
            "annotation 2000000000 has the box [1, 2, 3], expected x, y, width and height",
        ),
        (
            lambda root: change(root, lambda c: c.update(categories=[])),
            "its category lists no joints",
        ),
        (
            lambda root: change(root, lambda c: c["images"][0].pop("file_name")),
            "an image without file_name or id",
        ),
    ],
)
def test_a_bad_video_is_named_and_keeps_files_from_being_written(
    posetrack18, tmp_path, capfd, damage, message
):
    damage(posetrack18)
    out = tmp_path / "out"
    assert run(posetrack18, out) == 1
    said = capfd.readouterr()
    assert not out.exists()
    assert "1 bad videos" in said.err and "no file was written" in said.err
    # The table breaks long lines anywhere.
    assert message.replace(" ", "") in "".join(said.out.split()), said.out

    assert run(posetrack18, out, "--skip-bad") == 0
    merged = read(out / "annotations" / "posetrack18_val.json")
    assert {Path(i["file_name"]).parent.name for i in merged["images"]} == {"000003_mpii"}
    assert sorted(p.name for p in (out / "annotations" / "val").iterdir()) == ["000003_mpii.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: video_file(root).write_text("{"), "000002_mpii.json: unreadable"),
        (lambda root: video_file(root).write_text("[]"), "found no list 'images'"),
        (
            lambda root: change(root, lambda c: c.pop("annotations")),
            "000002_mpii.json: found no list 'annotations'",
        ),
        (
            lambda root: shutil.copy(
                video_file(root), video_file(root).with_name("000009_same.json")
            ),
            "both have images with the id 20000000",
        ),
        (lambda root: shutil.rmtree(root / "annotations"), "found no annotations/"),
    ],
)
def test_what_is_no_posetrack18_is_refused(posetrack18, tmp_path, capsys, damage, message):
    damage(posetrack18)
    assert run(posetrack18, tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_leaving_videos_out_needs_another_root(posetrack18, capsys):
    assert run(posetrack18, posetrack18, "--skip-bad") == 1
    assert "needs another root" in capsys.readouterr().err
    assert not (posetrack18 / "annotations" / "posetrack18_val.json").exists()


def test_a_real_video(tmp_path, capsys):
    src = DATA / "posetrack18"
    if not src.is_dir():
        pytest.skip(f"no PoseTrack video at {src}; set SKIPPOSE_TEST_DATA")
    assert run(src, tmp_path) == 0
    merged = read(tmp_path / "annotations" / "posetrack18_val.json")
    assert (len(merged["images"]), len(merged["annotations"])) == (41, 164)
    assert cv2.imread(str(tmp_path / merged["images"][0]["file_name"])).shape == (540, 960, 3)
