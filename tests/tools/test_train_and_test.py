"""The headline config from the command line, end to end, under our tools and under mmpose's own."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmpose")

import cv2
import mmpose
import torch

ROOT = Path(__file__).parents[2]
OURS = ROOT / "tools"
THEIRS = Path(mmpose.__file__).parent / ".mim" / "tools"
CONFIG = ROOT / "configs" / "skip_hrnet_w32.py"
LENGTHS = {"train": (9, 11), "test": (7, 12, 4)}  # frames of each clip
JOINTS = 15
# The network of the config made small; everything else stays as users have it.
SMALL = [
    "load_from=None",
    "model.backbone.extra.stage1.num_blocks=(1,)",
    "model.backbone.extra.stage1.num_channels=(8,)",
    *(
        f"model.backbone.extra.stage{n}.{key}"
        for n, channels in ((2, "(8,16)"), (3, "(8,16,32)"), (4, "(8,16,32,64)"))
        for key in (
            "num_modules=1",
            f"num_blocks=({','.join('1' * n)})",
            f"num_channels={channels}",
        )
    ),
    "model.head.in_channels=8",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not THEIRS.is_dir(), reason="this mmpose was installed without its tools"),
]


def write_videos(root: Path) -> None:
    """Videos of a textured square that moves over a still background, annotated as JHMDB is."""
    rng = np.random.default_rng(0)
    for subset, lengths in LENGTHS.items():
        images, annotations = [], []
        for number, length in enumerate(lengths):
            folder = Path("Rename_Images") / subset / f"clip{number}"
            (root / folder).mkdir(parents=True)
            background = rng.integers(0, 255, (60, 80, 3), np.uint8).repeat(4, 0).repeat(4, 1)
            square = rng.integers(0, 255, (10, 10, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            joints = rng.uniform(5, 75, (JOINTS, 2))
            for t in range(length):
                corner = np.array([60 + 3 * t, 70 + 2 * t])
                frame = background.copy()
                frame[corner[1] : corner[1] + 80, corner[0] : corner[0] + 80] = square
                name = (folder / f"{t + 1:05d}.png").as_posix()
                cv2.imwrite(str(root / name), frame)
                image = 1000 * (number + 1) + t
                images.append(
                    dict(id=image, file_name=name, width=320, height=240, is_labeled=True)
                )
                keypoints = np.hstack([joints + corner + 1, np.full((JOINTS, 1), 2)])
                annotations.append(
                    dict(
                        id=image,
                        image_id=image,
                        track_id=0,
                        category_id=1,
                        keypoints=keypoints.ravel().tolist(),
                        bbox=[*(corner + 1).tolist(), 80, 80],
                        num_keypoints=JOINTS,
                        area=6400,
                        iscrowd=0,
                    )
                )
        path = root / "annotations" / f"Sub1_{subset}.json"
        path.parent.mkdir(exist_ok=True)
        categories = [
            dict(id=1, name="person", keypoints=[str(n) for n in range(JOINTS)], skeleton=[])
        ]
        path.write_text(
            json.dumps(dict(images=images, annotations=annotations, categories=categories))
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("jhmdb")
    write_videos(root)
    return root


def run(tool: Path, *options: object, data: Path, cwd: Path) -> str:
    env = os.environ | dict(
        SKIPPOSE_DATA=str(data),
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        OMP_NUM_THREADS="1",
    )
    command = [sys.executable, tool, *options]
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def train(tools: Path, data: Path, cwd: Path) -> list[float]:
    """Trains for a few iterations; returns the losses."""
    options = [
        *SMALL,
        "train_cfg.max_epochs=6",
        "train_cfg.val_interval=6",
        "train_dataloader.batch_size=2",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
        "param_scheduler=None",
        "optim_wrapper.optimizer.lr=0.003",
        "default_hooks.logger.interval=1",
        "log_processor.window_size=1",
        "randomness.seed=0",
    ]
    run(tools / "train.py", CONFIG, "--cfg-options", *options, data=data, cwd=cwd)
    (log,) = (cwd / "work_dirs" / CONFIG.stem).glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test(tools: Path, checkpoint: Path, data: Path, cwd: Path) -> tuple[dict, list[dict], str]:
    """Tests a checkpoint; returns the metrics, the dumped predictions and the log."""
    options = [
        *(option for option in SMALL if not option.startswith("load_from")),
        "test_dataloader.num_workers=0",
        "test_dataloader.persistent_workers=False",
    ]
    files = ["--out", "metrics.json", "--dump", "dump.pkl"]
    log = run(
        tools / "test.py", CONFIG, checkpoint, *files, "--cfg-options", *options, data=data, cwd=cwd
    )
    metrics = json.loads((cwd / "metrics.json").read_text())
    return metrics, pickle.loads((cwd / "dump.pkl").read_bytes()), log


def pck_by_hand(samples: list[dict]) -> float:
    """Share of visible joints within 0.2 of the box's longer side, averaged over the joints."""
    near, visible = [], []
    for sample in samples:
        truth, found = sample["gt_instances"], sample["pred_instances"]
        x0, y0, x1, y1 = np.asarray(truth["bboxes"])[0]
        distance = np.linalg.norm(found["keypoints"][0] - truth["keypoints"][0], axis=-1)
        near.append(distance < 0.2 * max(x1 - x0, y1 - y0))
        visible.append(np.asarray(truth["keypoints_visible"])[0].astype(bool))
    near, visible = np.array(near), np.array(visible)
    return float(np.mean([near[visible[:, j], j].mean() for j in range(near.shape[1])]))


test.__test__ = False  # a helper, not a test


def test_training_and_testing_under_both_sets_of_tools(data, tmp_path):
    losses, results = {}, {}
    for tools in (OURS, THEIRS):
        cwd = tmp_path / ("ours" if tools == OURS else "theirs")
        cwd.mkdir()
        losses[tools] = train(tools, data, cwd)
        checkpoint = cwd / "work_dirs" / CONFIG.stem / "epoch_6.pth"
        results[tools] = test(tools, checkpoint, data, cwd)

    assert losses[OURS] == losses[THEIRS]
    half = len(losses[OURS]) // 2
    assert np.mean(losses[OURS][half:]) < np.mean(losses[OURS][:half]), losses[OURS]

    metrics, dumped, log = results[OURS]
    # torch says so where a checkpoint does not load as weights alone.
    assert "weights_only backend" in log and "Could not safely load" not in log
    assert not re.search(r"WARNING.*(skippose|SparsityMetric)", log), log
    torch.load(tmp_path / "ours" / "work_dirs" / CONFIG.stem / "epoch_6.pth", weights_only=True)
    assert metrics == results[THEIRS][0]
    assert {"PCK", "tPCK"} <= metrics.keys()
    for word in ("GMACs", "reduction", "sparsity"):
        assert any(word.lower() in key.lower() for key in metrics), metrics
        assert re.search(rf"{word}\S*: [\d.]+", log, re.IGNORECASE), word
    # Every frame of every clip, in order, and nothing but that.
    frames = [(s["img_path"], s["frame"]) for s in dumped]
    assert len(frames) == len(set(frames)) == sum(LENGTHS["test"])
    assert metrics["PCK"] == pytest.approx(pck_by_hand(dumped), abs=1e-6)
