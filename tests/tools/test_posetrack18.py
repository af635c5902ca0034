"""The whole way on PoseTrack18: convert, train, test; every labelled person-frame counts once."""

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmpose")

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SKIPPOSE_TEST_DATA", ROOT / ".." / "shared" / "data"))
CONFIG = (
    ROOT / "configs" / "posetrack18" / "td-hm_skip-hrnet-w32-norm_b4x8-20e_posetrack18-256x192.py"
)
# The network of the config made small; everything else stays as users have it.
SMALL = [
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
    "custom_hooks.2.enable=False",  # pictures of gates have tests of their own
]
HEAD = (1, 2)  # joints

pytestmark = pytest.mark.slow


@pytest.fixture(params=["made", "real"])
def root(request, posetrack18, tmp_path) -> Path:
    """A converted PoseTrack18: a small one made for the test, or a real video."""
    src = posetrack18
    if request.param == "real":
        src = DATA / "posetrack18"
        if not src.is_dir():
            pytest.skip(f"no PoseTrack video at {src}; set SKIPPOSE_TEST_DATA")
    out = tmp_path / "data"
    converter = ROOT / "tools" / "dataset_converters" / "posetrack18.py"
    run([converter, "--src", src, "--out", out], out, tmp_path)
    return out


def run(command: list, root: Path, cwd: Path, launcher: tuple = (sys.executable,)) -> str:
    env = os.environ | dict(
        SKIPPOSE_POSETRACK18=str(root),
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        OMP_NUM_THREADS="1",
    )
    done = subprocess.run(
        [str(word) for word in (*launcher, *command)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def train(root: Path, cwd: Path) -> Path:
    """Trains from scratch for a few iterations; returns the checkpoint."""
    has_train = (root / "annotations" / "posetrack18_train.json").exists()
    loader = "train_dataloader"
    options = [
        *SMALL,
        "load_from=None",
        "train_cfg.max_epochs=1",
        f"{loader}.batch_size=2",
        f"{loader}.num_workers=0",
        f"{loader}.persistent_workers=False",
        f"{loader}.dataset.indices=6",
        f"{loader}.dataset.clip_len=4",
        f"{loader}.dataset.dataset.ann_file=annotations/posetrack18_"
        + ("train.json" if has_train else "val.json"),
        "default_hooks.logger.interval=1",
        "default_hooks.checkpoint.save_best=None",
    ]
    tool = ROOT / "tools" / "train.py"
    run([tool, CONFIG, "--no-validate", "--cfg-options", *options], root, cwd)
    (log,) = (cwd / "work_dirs" / CONFIG.stem).glob("*/vis_data/scalars.json")
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert len(losses) >= 2 and np.isfinite(losses).all()
    return cwd / "work_dirs" / CONFIG.stem / "epoch_1.pth"


def evaluate(
    checkpoint: Path, root: Path, cwd: Path, processes: int = 1, detections: Path | None = None
) -> tuple[dict, list[dict], str]:
    """Tests; returns the metrics, every sample that was evaluated, and the log."""
    options = [
        *SMALL,
        "test_dataloader.num_workers=0",
        "test_dataloader.persistent_workers=False",
        "env_cfg.dist_cfg.backend=gloo",
    ]
    if detections is not None:
        options += [
            f"test_dataloader.dataset.dataset.bbox_file={detections}",
            "test_dataloader.dataset.dataset.filter_cfg.bbox_score_thr=0.4",
        ]
    command = [ROOT / "tools" / "test.py", CONFIG, checkpoint, "--out", "out.json"]
    command += ["--dump", "dump.pkl"]
    launcher: tuple = (sys.executable,)
    if processes > 1:
        launcher += ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
        command += ["--launcher", "pytorch"]
    log = run([*command, "--cfg-options", *options], root, cwd, launcher)
    samples = pickle.loads((cwd / "dump.pkl").read_bytes())
    return json.loads((cwd / "out.json").read_text()), samples, log


def pckh_by_hand(annotations: dict[int, dict], samples: list[dict]) -> float:
    """Share of labelled joints within half a head, averaged over the joints, from the file."""
    near, there = [], []
    for sample in samples:
        points = np.reshape(annotations[sample["id"]]["keypoints"], (-1, 3))
        head = np.linalg.norm(np.subtract(*points[list(HEAD), :2]))
        if not points[list(HEAD), 2].all():
            continue
        error = np.linalg.norm(sample["pred_instances"]["keypoints"][0] - points[:, :2], axis=1)
        near.append(error < 0.5 * head)
        there.append(points[:, 2] > 0)
    near, there = np.array(near), np.array(there)
    return float(np.mean([near[there[:, j], j].mean() for j in np.flatnonzero(there.any(0))]))


def by_frame(samples: list[dict]) -> list[tuple]:
    return [(s["clip_id"], s["frame"], s["img_id"], s["id"]) for s in samples]


def test_every_labelled_person_frame_is_evaluated_once(root, tmp_path):
    checkpoint = train(root, tmp_path)
    content = json.loads((root / "annotations" / "posetrack18_val.json").read_text())
    annotations = {a["id"]: a for a in content["annotations"]}
    images = {image["id"]: image for image in content["images"]}

    metrics, samples, log = evaluate(checkpoint, root, tmp_path)
    assert Counter(s["id"] for s in samples) == Counter(annotations.keys())
    for sample in samples:
        annotation = annotations[sample["id"]]
        assert sample["img_id"] == annotation["image_id"]
        assert sample["img_path"].endswith(images[sample["img_id"]]["file_name"])
        video = Path(images[sample["img_id"]]["file_name"]).parent.as_posix()
        track = re.sub(r"/\d+$", "", sample["clip_id"].rpartition("#")[2])
        assert sample["clip_id"].startswith(video) and track == str(annotation["track_id"])
    assert metrics["PCKh"] == pytest.approx(pckh_by_hand(annotations, samples), abs=1e-6)
    assert metrics["GMACs"] < metrics["dense_GMACs"] and 0 < metrics["sparsity"] < 1
    if importlib.util.find_spec("poseval") is None:
        assert "PoseTrack18Metric is left out: Please install ``poseval``" in log
    else:
        assert "posetrack18/AP" in metrics

    both, again, _ = evaluate(checkpoint, root, tmp_path, processes=2)
    assert by_frame(again) == by_frame(samples)
    assert both == pytest.approx(metrics, nan_ok=True)  # AP of joints that nobody has


def test_every_detection_is_evaluated_once(root, tmp_path):
    checkpoint = train(root, tmp_path)
    content = json.loads((root / "annotations" / "posetrack18_val.json").read_text())
    rng = np.random.default_rng(0)
    detections = [
        dict(
            image_id=a["image_id"],
            category_id=1,
            bbox=(np.array(a["bbox"]) + rng.uniform(-2, 2, 4)).tolist(),
            score=0.9,
        )
        for a in content["annotations"]
        if a["id"] % 5  # the detector misses some
    ]
    kept = len(detections)
    first = content["images"][0]["id"]
    detections += [
        dict(image_id=first, category_id=1, bbox=[2, 2, 20, 20], score=0.5),  # nobody is there
        dict(image_id=first, category_id=1, bbox=[5, 5, 20, 20], score=0.2),  # below the threshold
        dict(image_id=first, category_id=1, bbox=[5, 5, 0, 20], score=0.9),  # no area
    ]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(detections))

    metrics, samples, log = evaluate(checkpoint, root, tmp_path, detections=path)
    assert len(samples) == kept + 1

    def corners(box: list[float]) -> tuple:
        return tuple(np.round([box[0], box[1], box[0] + box[2], box[1] + box[3]], 2).tolist())

    expected = Counter((d["image_id"], *corners(d["bbox"])) for d in detections[: kept + 1])
    found = Counter(
        (s["img_id"], *np.round(s["gt_instances"]["bboxes"][0].astype(float), 2).tolist())
        for s in samples
    )
    assert len(found) == len(samples) and _same(found, expected)
    assert "PCKh" not in metrics and "HeadPCKAccuracy gives no value" in log
    assert metrics["GMACs"] < metrics["dense_GMACs"]

    both, again, _ = evaluate(checkpoint, root, tmp_path, processes=2, detections=path)
    assert by_frame(again) == by_frame(samples)
    assert both == pytest.approx(metrics, nan_ok=True)  # AP of joints that nobody has


def _same(found: Counter, expected: Counter) -> bool:
    """Whether the boxes agree but for rounding."""
    a, b = np.array(sorted(found.elements())), np.array(sorted(expected.elements()))
    return a.shape == b.shape and np.abs(a - b).max() < 0.05
