"""The JHMDB converter: against the official annotation, and on damaged input."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SKIPPOSE_TEST_DATA", ROOT / ".." / "shared" / "data"))

_spec = importlib.util.spec_from_file_location(
    "jhmdb_converter", ROOT / "tools" / "dataset_converters" / "jhmdb.py"
)
jhmdb = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = jhmdb
_spec.loader.exec_module(jhmdb)

SIZE = (24, 32)
CLIPS = [("run", "a_run_0", 3), ("run", "b_run_1", 2), ("walk", "c_walk_0", 4)]


def write_clip(src: Path, action: str, name: str, frames: int, video: bool = False) -> np.ndarray:
    """Writes one clip in JHMDB's layout; returns its frames (T, H, W, 3)."""
    rng = np.random.default_rng(len(name) + frames)
    images = rng.integers(0, 255, (frames, *SIZE, 3), np.uint8)
    folder = src / "Rename_Images" / action / name
    if video:
        path = src / "ReCompress_Videos" / action / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, SIZE[::-1])
        assert writer.isOpened()
        for image in images:
            writer.write(image)
        writer.release()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for t, image in enumerate(images, 1):
            cv2.imwrite(str(folder / f"{t:05d}.png"), image)
    masks = np.zeros((*SIZE, frames), np.uint8)
    for t in range(frames):
        masks[3 : 10 + t, 5 : 12 + t, t] = 1
    for kind, key, value in (
        ("puppet_mask", "part_mask", masks),
        ("joint_positions", "pos_img", rng.uniform(1, 20, (2, 15, frames))),
    ):
        path = src / kind / action / name / f"{kind}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {key: value})
    return images


@pytest.fixture
def src(tmp_path):
    """Three clips in Rename_Images, and a fourth that the splits name but is absent."""
    src = tmp_path / "JHMDB"
    for action, name, frames in CLIPS:
        write_clip(src, action, name, frames)
    (src / "splits").mkdir()
    for k in (1, 2, 3):
        (src / "splits" / f"run_test_split{k}.txt").write_text(
            "a_run_0.avi 1\nb_run_1.avi 2\nabsent_run_0.avi 2\n"
        )
        (src / "splits" / f"walk_test_split{k}.txt").write_text(f"c_walk_0.avi {1 + k // 3}\n")
    return src


def run(src: Path, out: Path, *options: str) -> int:
    return jhmdb.main(["--src", str(src), "--out", str(out), "--workers", "1", *options])


def read(out: Path, name: str) -> dict:
    return json.loads((out / "annotations" / f"{name}.json").read_text())


def test_equals_the_official_annotation(tmp_path):
    official = DATA / "jhmdb_official_sample" / "test_jhmdb_sub1.json"
    if not official.is_file():
        pytest.skip(f"no official sample at {official}; set SKIPPOSE_TEST_DATA")
    wanted = json.loads(official.read_text())
    names = {image["id"]: Path(image["file_name"]) for image in wanted["images"]}
    clips = [p.parent.name for p in names.values()]
    src = tmp_path / "src"  # the real data, less the clips that are not compared
    for kind in ("joint_positions", "puppet_mask", "ReCompress_Videos"):
        (src / kind / "catch").mkdir(parents=True)
        for clip in clips:
            name = f"{clip}.avi" if kind == "ReCompress_Videos" else clip
            source = (DATA / "jhmdb" / kind / "catch" / name).resolve()
            if source.exists():
                (src / kind / "catch" / name).symlink_to(source)
    (src / "splits").symlink_to((DATA / "jhmdb" / "splits").resolve())
    assert run(src, tmp_path / "out") == 0
    ours = read(tmp_path / "out", "Sub1_test")
    assert ours["categories"] == wanted["categories"]
    images = {tuple(Path(i["file_name"]).parts[-2:]): i for i in ours["images"]}
    annotations = {a["image_id"]: a for a in ours["annotations"]}
    compared = 0
    for annotation in wanted["annotations"]:
        official_image = next(i for i in wanted["images"] if i["id"] == annotation["image_id"])
        image = images.get(names[annotation["image_id"]].parts)
        if image is None:
            continue  # the third official clip is not part of the local data
        ours_here = annotations[image["id"]]
        assert image.keys() == official_image.keys()
        assert ours_here.keys() == annotation.keys()
        for key in ("is_labeled", "nframes", "width", "height"):
            assert image[key] == official_image[key], key
        for key in ("bbox", "track_id", "category_id", "scores"):
            assert ours_here[key] == annotation[key], key
        difference = np.subtract(ours_here["keypoints"], annotation["keypoints"])
        assert np.abs(difference).max() <= 0.1
        assert (tmp_path / "out" / image["file_name"]).is_file()
        compared += 1
    assert compared == 2


def test_layout_and_numbers(src, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(src, out) == 0
    sub1 = read(out, "Sub1_train")
    assert [i["file_name"] for i in sub1["images"]] == [
        *(f"Rename_Images/run/a_run_0/{t:05d}.png" for t in (1, 2, 3)),
        *(f"Rename_Images/walk/c_walk_0/{t:05d}.png" for t in (1, 2, 3, 4)),
    ]
    first, second = sub1["annotations"][:2]
    assert first["bbox"] == [6, 4, 7, 7] and second["bbox"] == [6, 4, 8, 8]  # 1-based
    assert len(first["keypoints"]) == 45 and first["keypoints"][2::3] == [2.0] * 15
    assert {i["nframes"] for i in sub1["images"]} == {3, 4}
    assert [i["id"] for i in sub1["images"]] == [a["image_id"] for a in sub1["annotations"]]
    # The same clip has the same ids in every split, here in train of 1 and in test of 3.
    walk = {i["file_name"]: i["id"] for i in sub1["images"] if "walk" in i["file_name"]}
    moved = {
        i["file_name"]: i["id"]
        for i in read(out, "Sub3_test")["images"]
        if "walk" in i["file_name"]
    }
    assert moved == walk
    text = " ".join(capsys.readouterr().out.split())
    assert "3 clips, 9 frames (0 unlabelled); 1 clips named in a split are absent; 0 bad" in text
    assert "absent: run/absent_run_0" in text


def test_frames_are_copied_exactly(src, tmp_path):
    assert run(src, tmp_path / "out") == 0
    for path in sorted((src / "Rename_Images").rglob("*.png")):
        copied = tmp_path / "out" / path.relative_to(src)
        assert np.array_equal(cv2.imread(str(copied)), cv2.imread(str(path)))


def test_videos(src, tmp_path):
    images = write_clip(src, "run", "absent_run_0", 5, video=True)
    assert run(src, tmp_path / "out") == 0
    folder = tmp_path / "out" / "Rename_Images" / "run" / "absent_run_0"
    assert sorted(p.name for p in folder.iterdir()) == [f"{t:05d}.png" for t in range(1, 6)]
    third = cv2.imread(str(folder / "00003.png")).astype(float)
    distances = [np.abs(third - image).mean() for image in images]
    assert int(np.argmin(distances)) == 2  # MJPG loses detail, but the order is the video's


def test_a_second_run_decodes_nothing_and_an_interrupted_clip_is_made_again(src, tmp_path):
    out = tmp_path / "out"
    assert run(src, out) == 0
    first = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    lost = out / "Rename_Images" / "run" / "a_run_0" / "00002.png"
    lost.unlink()
    assert run(src, out) == 0
    second = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert second.keys() == first.keys()
    assert {p for p in first if first[p] != second[p]} == set(lost.parent.iterdir())
    assert not list(out.rglob("*.partial"))


def test_in_place(src):
    before = {p: p.stat().st_mtime_ns for p in src.rglob("*.png")}
    assert run(src, src) == 0
    assert {p: p.stat().st_mtime_ns for p in src.rglob("*.png")} == before
    assert (src / "annotations" / "Sub2_test.json").is_file()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_frame_less_in_the_video(src: Path) -> None:
    """A clip whose video ends before its annotation does."""
    write_clip(src, "run", "absent_run_0", 3, video=True)
    masks = src / "puppet_mask" / "run" / "absent_run_0" / "puppet_mask.mat"
    joints = src / "joint_positions" / "run" / "absent_run_0" / "joint_positions.mat"
    savemat(masks, {"part_mask": np.ones((*SIZE, 4), np.uint8)})
    savemat(joints, {"pos_img": np.ones((2, 15, 4))})


A = "run/a_run_0"


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (
            lambda s: cut(s / "Rename_Images" / A / "00002.png"),
            ["a_run_0/00002.png: truncated"],
        ),
        (
            lambda s: (s / "Rename_Images" / A / "00002.png").unlink(),
            ["a_run_0/00002.png: missing"],
        ),
        (
            lambda s: (s / "Rename_Images" / A / "00003.png").unlink(),
            ["a_run_0: 2 frames can be read, but the annotation has 3"],
        ),
        (
            one_frame_less_in_the_video,
            ["absent_run_0.avi: 3 frames can be read, but the annotation has 4"],
        ),
        (
            lambda s: cut(s / "puppet_mask" / A / "puppet_mask.mat"),
            ["puppet_mask.mat: unreadable"],
        ),
        (
            lambda s: (s / "joint_positions" / A / "joint_positions.mat").unlink(),
            ["joint_positions.mat: missing"],
        ),
        (
            lambda s: savemat(
                s / "joint_positions" / A / "joint_positions.mat", {"pos_img": np.ones((2, 15, 5))}
            ),
            ["puppet_mask.mat: 3 frames, but", "joint_positions.mat has 5"],
        ),
        (
            lambda s: savemat(
                s / "joint_positions" / A / "joint_positions.mat", {"pos_img": np.ones((2, 14, 3))}
            ),
            ["pos_img has shape (2, 14, 3), expected (2, 15, None)"],
        ),
        (
            lambda s: savemat(s / "puppet_mask" / A / "puppet_mask.mat", {"mask": np.ones(3)}),
            ["found arrays ['mask'], expected 'part_mask'"],
        ),
        (
            lambda s: cv2.imwrite(
                str(s / "Rename_Images" / A / "00002.png"), np.zeros((8, 9, 3), np.uint8)
            ),
            ["frame 2 has (height, width) (8, 9), but the puppet mask has (24, 32)"],
        ),
    ],
)
def test_a_bad_clip_is_named_and_stops_the_annotation(src, tmp_path, capsys, damage, messages):
    damage(src)
    out = tmp_path / "out"
    assert run(src, out) == 1
    captured = capsys.readouterr()
    text = captured.out.replace("\n", "")
    for message in messages:
        assert message.replace(" ", "") in text.replace(" ", "")
    assert "no annotation file was written" in captured.err
    assert not (out / "annotations").exists()
    assert not (out / "Rename_Images" / A).exists() or "absent" in messages[0]
    # The other clips were converted, and --skip-bad leaves only the bad one out.
    assert run(src, out, "--skip-bad") == 0
    listed = {i["file_name"].split("/")[2] for i in read(out, "Sub1_train")["images"]}
    assert "c_walk_0" in listed
    assert ("a_run_0" in listed) == ("absent" in messages[0])


def test_surplus_frames_are_left_out_and_reported(src, tmp_path, capsys):
    extra = src / "Rename_Images" / A / "00004.png"
    extra.write_bytes((src / "Rename_Images" / A / "00003.png").read_bytes())
    out = tmp_path / "out"
    assert run(src, out) == 0
    assert not (out / "Rename_Images" / A / "00004.png").exists()
    assert "run/a_run_0: 1 frames beyond the annotation left out" in capsys.readouterr().out


def test_a_frame_without_a_mask_is_unlabelled(src, tmp_path):
    masks = np.ones((*SIZE, 3), np.uint8)
    masks[:, :, 1] = 0
    savemat(src / "puppet_mask" / A / "puppet_mask.mat", {"part_mask": masks})
    out = tmp_path / "out"
    assert run(src, out) == 0
    content = read(out, "Sub1_train")
    here = [i for i in content["images"] if A in i["file_name"]]
    assert [i["is_labeled"] for i in here] == [True, False, True]
    annotated = {a["image_id"] for a in content["annotations"]}
    assert [i["id"] in annotated for i in here] == [True, False, True]


@pytest.mark.parametrize(
    ("line", "message"),
    [("a_run_0.avi 7\n", "found 'a_run_0.avi 7'"), ("a_run_0 1\n", "found 'a_run_0 1'")],
)
def test_a_bad_split_line_is_named(src, tmp_path, capsys, line, message):
    (src / "splits" / "run_test_split2.txt").write_text("\n" + line)
    assert run(src, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "run_test_split2.txt, line 2" in error and message in error


def test_no_splits_and_no_clips(src, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "out") == 1
    assert "no <class>_test_split" in capsys.readouterr().err
    (tmp_path / "empty" / "splits").symlink_to(src / "splits")
    assert run(tmp_path / "empty", tmp_path / "out") == 1
    assert "none of the 4 clips" in capsys.readouterr().err
