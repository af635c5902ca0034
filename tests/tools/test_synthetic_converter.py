"""The tool that writes synthetic clips: layout, determinism, restart, and what reads them."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmpose")

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpose.registry import DATASETS

from skippose.datasets.synthetic import MOTIONS, Recording

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools" / "dataset_converters"

sys.path.insert(0, str(TOOLS))  # as for a script: it imports its neighbour
_spec = importlib.util.spec_from_file_location("synthetic_converter", TOOLS / "synthetic.py")
synthetic = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = synthetic
_spec.loader.exec_module(synthetic)
sys.path.remove(str(TOOLS))


def run(out: Path, *options: str) -> int:
    return synthetic.main(["--out", str(out), "--clips", "5", "--seed", "3", *options])


def digest(root: Path) -> dict[str, str]:
    """Every file below a folder and its hash."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def read(out: Path, subset: str) -> dict:
    return json.loads((out / "annotations" / f"Sub1_{subset}.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Five clips, four of them for training, made by one worker. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("made") / "data"
    assert run(out, "--workers", "1") == 0
    return out


def test_any_number_of_workers_writes_the_same_bytes(made, tmp_path):
    assert run(tmp_path / "data", "--workers", "2") == 0
    assert digest(tmp_path / "data") == digest(made)


def test_another_seed_writes_other_clips(made):
    jobs = synthetic.plan(made, 5, 4)
    recording = Recording.sample(jobs[0].clip.action, jobs[0].identity)
    image = cv2.imread(str(jobs[0].images / "00001.png"))
    frame, _ = recording.light(0)
    assert np.abs(frame - image).mean() > 10


def test_layout_and_annotation(made):
    jobs = synthetic.plan(made, 5, 3)
    assert [job.subset for job in jobs] == ["train"] * 3 + ["test", "train"]
    for subset in ("train", "test"):
        content = read(made, subset)
        assert set(content) == {"categories", "images", "annotations"}
        assert content["categories"][0]["keypoints"][:3] == ["neck", "belly", "head"]
        by_image = {a["image_id"]: a for a in content["annotations"]}
        names = [image["file_name"] for image in content["images"]]
        expected = [
            path.relative_to(made).as_posix()
            for job in jobs
            if job.subset == subset
            for path in sorted(job.images.iterdir())
        ]
        assert names == expected
        for image in content["images"]:
            assert set(image) == {
                "is_labeled", "file_name", "nframes", "frame_id", "vid_id", "id", "width", "height",
            }  # fmt: skip
            assert set(by_image[image["id"]]) == {
                "keypoints", "track_id", "image_id", "bbox", "scores", "category_id", "id",
            }  # fmt: skip
            assert (image["width"], image["height"]) == (320, 240)


def test_joints_and_boxes_are_one_based(made):
    job = synthetic.plan(made, 5, 3)[3]
    recording = Recording.sample(job.clip.action, job.identity)
    images, masks = recording.record()
    annotations = read(made, "test")["annotations"]
    assert len(annotations) == len(recording) == len(list(job.images.iterdir()))
    for t, annotation in enumerate(annotations):
        keypoints = np.array(annotation["keypoints"]).reshape(15, 3)
        np.testing.assert_allclose(keypoints[:, :2], recording.joints[t] + 1, atol=1e-3)
        assert (keypoints[:, 2] == 2).all()
        x, y, w, h = (int(value) for value in annotation["bbox"])
        inside = masks[t][y - 1 : y - 1 + h, x - 1 : x - 1 + w]
        assert inside.sum() == masks[t].sum()
        assert all(inside[edge].any() for edge in (0, -1))
        assert all(inside[:, edge].any() for edge in (0, -1))
        written = cv2.imread(str(job.images / f"{t + 1:05d}.png"))
        np.testing.assert_array_equal(written, images[t])


def test_an_interrupted_run_is_started_again(tmp_path, made, monkeypatch):
    out = tmp_path / "data"
    calls = iter([None, None])
    real = synthetic.write_json

    def fails_at_the_third(path, content):
        next(calls)  # StopIteration at the third
        real(path, content)

    jobs = synthetic.plan(out, 5, 3)
    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "write_json", fails_at_the_third)
        with pytest.raises(StopIteration):
            for job in jobs:
                synthetic.make(job)
    assert not (out / "annotations").exists()
    with monkeypatch.context() as patched:  # killed: nothing is cleared away
        patched.setattr(synthetic.Output, "_empty", lambda self, path: None)
        patched.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        with pytest.raises(KeyboardInterrupt), jobs[4].output.folder(jobs[4].images) as partial:
            (partial / "00001.png").write_bytes(b"cut off")
            raise KeyboardInterrupt
    assert partial.name == f".{jobs[4].clip.name}.partial" and list(partial.iterdir())
    (jobs[0].images / "00002.png").unlink()  # and somebody has deleted a frame
    jobs[1].note.write_text("{")
    before = jobs[1].images.stat().st_mtime_ns
    summary = synthetic.convert(out, clips=5, seed=3, workers=1)
    assert summary.kept == 0
    assert jobs[1].images.stat().st_mtime_ns != before
    assert digest(out) == digest(made)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert synthetic.convert(out, clips=5, seed=3, workers=1).kept == 5
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


def test_more_clips_leave_the_others_alone(tmp_path, made):
    out = tmp_path / "data"
    assert synthetic.main(["--out", str(out), "--clips", "4", "--seed", "3", "--workers", "2"]) == 0
    summary = synthetic.convert(out, clips=5, seed=3)
    assert summary.kept == 4
    assert digest(out) == digest(made)


def test_a_failed_clip_leaves_no_annotation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic.cv2, "imwrite", lambda *args: False)
    assert run(tmp_path / "data", "--workers", "1") == 1
    assert "00001.png: cannot be written" in capsys.readouterr().err
    assert not list((tmp_path / "data").rglob("*.json"))
    assert not list((tmp_path / "data").rglob("*.partial"))


def test_the_plan_is_balanced():
    jobs = synthetic.plan(Path("data"), 240, 0)
    for subset, share in (("train", 15), ("test", 5)):
        per_class = [
            sum(j.clip.action == action and j.subset == subset for j in jobs) for action in MOTIONS
        ]
        assert per_class == [share] * 12
    assert len({job.clip.number for job in jobs}) == len({job.images for job in jobs}) == 240
    assert any(job.subset == "test" for job in jobs[: synthetic.FEWEST])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "3"], "--clips must be at least 4, found 3"),
        (["--seed", "-1"], "--seed must be at least 0, found -1"),
        (["--workers", "0"], "--workers must be at least 1, found 0"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, options, message):
    assert synthetic.main(["--out", str(tmp_path / "data"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_folder_with_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "annotations").mkdir()
    assert run(tmp_path) == 1
    assert f"{tmp_path}: holds a data set that this tool has not made" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file") == 1
    assert "a file, expected a folder" in capsys.readouterr().err


def test_loads_through_the_shipped_config(made, monkeypatch):
    monkeypatch.setenv("SKIPPOSE_DATA", str(made))
    config = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / "jhmdb_clips.py")
    with DefaultScope.overwrite_default_scope("mmpose"):
        test = DATASETS.build(config.test_dataloader.dataset)
        train = DATASETS.build(config.train_dataloader.dataset)
    job = synthetic.plan(made, 5, 3)[3]
    recording = Recording.sample(job.clip.action, job.identity)
    assert len(test) == 1
    item = test[0]
    assert tuple(item["inputs"].shape) == (len(recording), 3, 256, 256)
    for t, sample in enumerate(item["data_samples"]):
        assert sample.labelled and sample.frame == t
        found = sample.gt_instances.keypoints[0]
        np.testing.assert_allclose(found, recording.joints[t], atol=1e-3)
    window = train[0]
    assert window["inputs"].shape[0] == 8
    assert window["data_samples"][0].gt_fields.heatmaps.shape == (15, 64, 64)
