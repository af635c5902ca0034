"""Rendered clips for the tools that run networks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def synthetic_clips(tmp_path_factory) -> Path:
    """Eight clips in JHMDB's layout, two of them for testing."""
    out = tmp_path_factory.mktemp("synthetic")
    tool = ROOT / "tools" / "dataset_converters" / "synthetic.py"
    command = [sys.executable, tool, "--out", out, "--clips", 8, "--seed", 3]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def dense_config(tmp_path: Path) -> str:
    """A config of mmpose's own kind, as far as the tools read it."""
    path = tmp_path / "dense.py"
    path.write_text(
        'model = dict(type="TopdownPoseEstimator")\n'
        'test_dataloader = dict(dataset=dict(type="JhmdbDataset"))\n'
        "train_dataloader = test_dataloader\n"
    )
    return str(path)


# PoseTrack18's joints and videos, by names that poseval knows; the second and third end the head.
POSETRACK_NAMES = ["nose", "head_bottom", "head_top"] + [
    f"{side}_{joint}"
    for joint in ("ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
]
POSETRACK_JOINTS = len(POSETRACK_NAMES)


def write_posetrack18(root: Path) -> None:
    """A small PoseTrack18 as distributed: a file of annotations for each video.

    Two people who move over noise; the second is away from some frames, and some frames are not
    labelled.
    """
    import cv2

    rng = np.random.default_rng(0)
    videos = {"train/000001_mpii": 8, "val/000002_mpii": 9, "val/000003_mpii": 5}
    for number, (video, length) in enumerate(videos.items(), 1):
        folder = root / "images" / video
        folder.mkdir(parents=True)
        shape = rng.uniform(0, 1, (2, POSETRACK_JOINTS, 2))
        images, annotations = [], []
        for t in range(length):
            name = f"{t:06d}.jpg"
            cv2.imwrite(str(folder / name), rng.integers(0, 255, (96, 128, 3), np.uint8))
            image = 10_000_000 * number + t
            labelled = t % 4 != 1
            images.append(
                dict(
                    id=image,
                    file_name=f"images/{video}/{name}",
                    is_labeled=labelled,
                    vid_id=f"{number:06d}",
                    frame_id=image,
                    nframes=length,
                )
            )
            people = [0, 1] if number != 3 and t not in (2, 3) else [0]
            for track in people if labelled else []:
                box = np.array([10 + 50 * track + 2 * t, 15, 36, 70])
                joints = shape[track] * box[2:] + box[:2]
                points = np.column_stack([joints, np.ones(POSETRACK_JOINTS)])
                annotations.append(
                    dict(
                        id=100 * image + track,
                        image_id=image,
                        track_id=track,
                        category_id=1,
                        keypoints=points.ravel().tolist(),
                        bbox=box.tolist(),
                        bbox_head=[*joints[2].tolist(), 8, 8],
                        scores=[],
                    )
                )
        category = dict(id=1, name="person", keypoints=POSETRACK_NAMES, skeleton=[])
        path = root / "annotations" / f"{video}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(dict(images=images, annotations=annotations, categories=[category]))
        )


@pytest.fixture
def posetrack18(tmp_path) -> Path:
    """The root of `write_posetrack18`'s."""
    root = tmp_path / "posetrack18-src"
    write_posetrack18(root)
    return root
