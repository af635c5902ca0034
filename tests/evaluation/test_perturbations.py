"""Disturbed frames: what moves, what stays, and that it is the same every time."""

import json

import numpy as np
import pytest

pytest.importorskip("mmpose")

import cv2

from skippose.evaluation.clip_bank import (
    background_flow,
    build_dataset,
    camera_of,
    data_identity,
    load_clips,
    spread,
)
from skippose.evaluation.perturbations import DEFAULTS, Perturbation

FRAMES, JOINTS, SIZE = 12, 15, (240, 320)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One clip of a person who stands still before a textured wall."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (*SIZE, 3)).astype(np.float32), (0, 0), 3)
    image = np.clip(128 + 6 * (image - image.mean()), 0, 255).astype(np.uint8)
    joints = rng.uniform((120, 60), (200, 180), (JOINTS, 2))
    images, annotations = [], []
    (root / "frames" / "stand").mkdir(parents=True)
    for t in range(FRAMES):
        name = f"frames/stand/{t + 1:05d}.png"
        cv2.imwrite(str(root / name), image)
        images.append(dict(id=t + 1, file_name=name, width=SIZE[1], height=SIZE[0]))
        annotations.append(
            dict(
                id=t + 1, image_id=t + 1, track_id=0, category_id=1, iscrowd=0,
                keypoints=np.hstack([joints + 1, np.full((JOINTS, 1), 2)]).ravel().tolist(),
                bbox=[111, 51, 100, 140], area=1.0, num_keypoints=JOINTS,
            )
        )  # fmt: skip
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="person")])
    (root / "test.json").write_text(json.dumps(content))
    return root


def config(root, **changes):
    pipeline = [
        dict(type="LoadImage"),
        dict(type="GetBBoxCenterScale"),
        dict(type="TopdownAffine", input_size=(64, 64)),
        dict(type="PackPoseInputs"),
    ]
    inner = dict(
        type="JhmdbDataset", data_root=str(root), ann_file="test.json", data_prefix=dict(img=""),
        test_mode=True, pipeline=[],
    )  # fmt: skip
    return dict(
        type="PerturbedClipDataset", test_mode=True, pipeline=pipeline, dataset=inner, **changes
    )


def one(root, **changes):
    (clip,) = load_clips(build_dataset(config(root, **changes)))
    return clip


@pytest.mark.parametrize("kind", DEFAULTS)
def test_frames_change_and_the_same_way_every_time(root, kind):
    plain, first, again = one(root), one(root, perturb=kind), one(root, perturb=kind)
    assert (first.inputs == again.inputs).all()
    assert (plain.inputs == plain.inputs[:1]).all()
    assert (first.inputs[1:] != plain.inputs[1:]).flatten(1).any(1).all()
    assert (one(root, perturb=f"{kind}:0").inputs == plain.inputs).all() or kind == "background"


def test_a_shaking_camera_takes_boxes_and_joints_along(root):
    plain, shaken = one(root), one(root, perturb="shake:5")
    shifts = Perturbation("shake", 5.0).shifts(plain.clip_id, FRAMES)
    assert 1 < np.abs(shifts).max() <= 5
    for t in range(FRAMES):
        before, after = plain.samples[t].gt_instances, shaken.samples[t].gt_instances
        assert np.allclose(after.keypoints - before.keypoints, shifts[t], atol=1e-4)
        assert np.allclose(after.bboxes - before.bboxes, np.tile(shifts[t], 2), atol=1e-4)
    # At mmpose's crop, which follows the box, the picture stays where it was.
    steady = one(root, perturb="shake:5", crop="frame").inputs.float()
    moved = (shaken.inputs.float() - plain.inputs.float()).abs().mean()
    assert (steady - plain.inputs.float()).abs().mean() < 0.5 * moved


def test_light_changes_by_the_factors(root):
    plain = one(root).inputs.float().flatten(1).mean(1).numpy()
    for kind in ("flicker", "exposure"):
        found = one(root, perturb=f"{kind}:0.05").inputs.float().flatten(1).mean(1).numpy()
        gains = Perturbation(kind, 0.05).gains(one(root).clip_id, FRAMES)
        assert np.allclose(found / plain, gains, atol=0.02), kind
    slow = Perturbation("exposure", 0.5).gains("x", 6)
    assert np.allclose(slow, [1, 2**-0.5, 0.5, 2**-0.5, 1, 2**-0.5])


def test_a_background_moves_behind_the_person(root):
    clip = one(root, perturb="background:4")
    change = (clip.inputs[1:].float() - clip.inputs[:-1].float()).abs().mean(1)
    edge = change[:, :6].mean()
    centre = change[:, 29:35, 29:35].mean()
    assert edge > 4 * centre


def test_played_back_and_forth(root):
    clip = one(root, play=2 * FRAMES + 3)
    paths = [sample.img_path for sample in clip.samples]
    once = paths[:FRAMES]
    assert len(set(once)) == FRAMES
    assert paths == (once + once[-2:0:-1] + once)[: len(paths)]
    assert [sample.frame for sample in clip.samples] == list(range(len(paths)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("fog", "fog"), ("shake:-1", "at least 0"), ("shake:x", "shake:x"), ("shake:nan", "nan")],
)
def test_unknown_perturbations_raise(text, message):
    with pytest.raises(ValueError, match=message):
        Perturbation.parse(text)


def test_training_windows_are_refused(root):
    with pytest.raises(ValueError, match="whole clips"):
        build_dataset({**config(root), "test_mode": False})
    with pytest.raises(ValueError, match="play"):
        one(root, play=0)


def test_the_identity_is_that_of_the_clips(root, tmp_path):
    first = data_identity(config(root))
    assert first == data_identity(config(root))
    assert first != data_identity(config(root, perturb="shake"))
    assert first != data_identity(config(root), count=3)
    (tmp_path / "test.json").write_bytes((root / "test.json").read_bytes())
    assert first == data_identity(config(tmp_path))
    (tmp_path / "test.json").write_text((root / "test.json").read_text() + " ")
    assert first != data_identity(config(tmp_path))


def test_the_camera_is_measured_where_no_name_says_it(root):
    assert camera_of(one(root)) == "still"
    rng = np.random.default_rng(1)
    wall = cv2.GaussianBlur(rng.uniform(0, 255, (120, 160)).astype(np.float32), (0, 0), 3)
    boxes = np.array([[60, 40, 90, 100]])
    assert background_flow(wall[:, :-1], wall[:, 1:], boxes) == pytest.approx(1, abs=0.1)
    assert background_flow(wall, wall, boxes) == 0


def test_clips_at_even_distances():
    assert spread(10, None) == spread(10, 12) == list(range(10))
    assert spread(10, 2) == [2, 7]
    assert spread(3, 1) == [1]
    with pytest.raises(ValueError, match="at least 1"):
        spread(3, 0)
