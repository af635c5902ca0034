"""What a newcomer runs into first, and whether the message says what to do next."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JHMDB = ROOT / "configs" / "skip_hrnet_w32.py"
DEMO = ROOT / "configs" / "demo" / "skip_hrnet_small.py"


def data_set(config: Path, data_root: Path, monkeypatch):
    """The training data of a shipped config, with the data root from the environment."""
    pytest.importorskip("mmpose")
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmpose.registry import DATASETS

    import skippose  # noqa: F401

    monkeypatch.setenv("SKIPPOSE_SYNTHETIC" if config == DEMO else "SKIPPOSE_DATA", str(data_root))
    with DefaultScope.overwrite_default_scope("mmpose"):
        return DATASETS.build(Config.fromfile(config).train_dataloader.dataset)


def annotate(root: Path, frames: int = 9) -> None:
    """An annotation file for a clip."""
    names = [f"Rename_Images/wave/clip/{t:05d}.png" for t in range(1, frames + 1)]
    images = [
        dict(id=n, file_name=name, width=32, height=24, is_labeled=True)
        for n, name in enumerate(names)
    ]
    annotations = [
        dict(
            id=n,
            image_id=n,
            track_id=0,
            category_id=1,
            bbox=[5, 5, 12, 12],
            keypoints=[8, 8, 2] * 15,
            num_keypoints=15,
            area=144,
            iscrowd=0,
        )
        for n in range(frames)
    ]
    (root / "annotations").mkdir(parents=True)
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="person")])
    (root / "annotations" / "Sub1_train.json").write_text(json.dumps(content))


def check_tools(message: str) -> None:
    """The scripts that a message names are there."""
    named = re.findall(r"tools/dataset_converters/(?:\w+\.py)?", message)
    assert named and all((ROOT / path).exists() for path in named), message


@pytest.mark.parametrize("config", [JHMDB, DEMO], ids=["jhmdb", "synthetic"])
@pytest.mark.parametrize("case", ["no data", "wrong root", "frames alone"])
def test_no_annotations(config, case, tmp_path, monkeypatch):
    root = tmp_path / "data"
    if case == "wrong root":
        annotate(root / "one_level_deeper")
    if case == "frames alone":
        (root / "Rename_Images" / "wave" / "clip").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        data_set(config, root, monkeypatch)
    message = str(error.value)
    assert f"{root}/annotations/Sub1_train.json: missing" in message
    assert f"data root is now {str(root)!r}" in message
    check_tools(message)
    # The variables that it names are those which the configs read.
    for variable, path in (("SKIPPOSE_DATA", JHMDB), ("SKIPPOSE_SYNTHETIC", DEMO)):
        assert f"export {variable}=" in message or f" {variable}=FOLDER for" in message
        bases = (ROOT / "configs" / "_base_" / "datasets").glob("*.py")
        used = [base for base in bases if f"${variable}:" in base.read_text()]
        assert len(used) == 1 and used[0].name in path.read_text(), variable


@pytest.mark.parametrize("config", [JHMDB, DEMO], ids=["jhmdb", "synthetic"])
def test_annotations_alone(config, tmp_path, monkeypatch):
    annotate(tmp_path)
    found = data_set(config, tmp_path, monkeypatch)
    with pytest.raises(RuntimeError) as error:
        found[0]
    message = str(error.value)
    assert re.search(rf"{tmp_path}/Rename_Images/wave/clip/\d+\.png: missing", message)
    assert "half-converted" in message and "run its converter" in message
    check_tools(message)


@pytest.mark.slow
def test_training_without_a_network(tmp_path):
    """The headline starts from a checkpoint that is downloaded."""
    pytest.importorskip("mmpose")
    cv2 = pytest.importorskip("cv2")
    import numpy as np

    annotate(tmp_path)
    shutil.copy(
        tmp_path / "annotations" / "Sub1_train.json", tmp_path / "annotations" / "Sub1_test.json"
    )
    folder = tmp_path / "Rename_Images" / "wave" / "clip"
    folder.mkdir(parents=True)
    for t in range(1, 10):
        cv2.imwrite(str(folder / f"{t:05d}.png"), np.zeros((24, 32, 3), np.uint8))
    nowhere = "http://127.0.0.1:9/checkpoint.pth"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "train.py", JHMDB, "--work-dir", tmp_path / "work"]
        + ["--cfg-options", f"load_from={nowhere}"],
        env=os.environ
        | dict(
            SKIPPOSE_DATA=str(tmp_path),
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS="1",
            no_proxy="127.0.0.1",
            TORCH_HOME=str(tmp_path / "hub"),
        ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert nowhere in last and "was not downloaded" in last
    assert "load_from=FILE" in last and "load_from=None" in last


# -- make setup -----------------------------------------------------------------------------------


def make_setup(tmp_path: Path, *arguments: str, **environment: str) -> str:
    """Runs `make setup` with a virtual environment of its own, which must fail; returns stderr."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        [make, "setup", f"VENV={tmp_path / 'venv'}", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in ("CC", "MAKEFLAGS")} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_set_up_without_python(tmp_path):
    assert "no Python 3.10, 3.11 or 3.12 found: make setup PYTHON=" in make_setup(
        tmp_path, "PYTHON="
    )


def test_set_up_without_a_compiler(tmp_path):
    """Said before gigabytes are downloaded."""
    said = make_setup(tmp_path, "COMPILER=", f"PYTHON={sys.executable}")
    assert "no C compiler" in said and "build-essential" in said and "then make again" in said
    assert not (tmp_path / "venv").exists()


def test_a_compiler_is_looked_for(tmp_path):
    """A search path that holds nothing but a compiler passes that check, an empty one does not."""
    for name, found in (("empty", False), ("cc", True), ("clang", True)):
        folder = tmp_path / name
        folder.mkdir()
        if found:
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
        said = make_setup(folder, f"PYTHON={folder}/no-python", PATH=str(folder))
        assert ("no C compiler" in said) != found, said
        assert ("no virtual environment" in said) == found, said


@pytest.mark.slow
def test_set_up_without_a_network(tmp_path):
    said = make_setup(
        tmp_path,
        f"PYTHON={sys.executable}",
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_NO_CACHE_DIR="1",
        no_proxy="127.0.0.1",
    )
    assert "the packages could not be installed: see above" in said
    assert "PIP_INDEX_URL=" in said and "PIP_FIND_LINKS=" in said and "then make again" in said
