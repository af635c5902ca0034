"""ClipCameraJitter and ClipExposureDrift: one draw a clip, another effect in each frame."""

import pytest

pytest.importorskip("mmpose")

import numpy as np

from skippose.datasets import ClipCameraJitter, ClipExposureDrift, ClipPipeline


def frames(count: int) -> list[dict]:
    image = np.random.default_rng(0).integers(40, 90, (48, 64, 3)).astype(np.uint8)
    return [
        dict(
            img=image.copy(),
            img_path=None,
            bbox=np.array([[10.0, 8.0, 50.0, 40.0]], np.float32),
            bbox_center=np.array([[30.0, 24.0]], np.float32),
            position=t,
        )
        for t in range(count)
    ]


def run(transform: dict, count: int = 200, seed: int = 0) -> list[dict]:
    pipeline = ClipPipeline([transform])
    windows = np.tile(np.array([10.0, 8.0, 50.0, 40.0], np.float32), (count, 1))
    return pipeline(frames(count), windows, representative=count // 2, key=(seed,))


def shifts(clip: list[dict]) -> np.ndarray:
    return np.stack([frame["bbox_center"][0] for frame in clip]) - [30.0, 24.0]


@pytest.mark.parametrize("seed", range(5))
def test_the_camera_moves_smoothly_and_as_far_as_it_says(seed):
    found = shifts(run(dict(type="ClipCameraJitter", prob=1.0, strength=(3.0, 3.0)), 2000, seed))
    assert np.sqrt(np.square(found).sum(axis=1).mean()) == pytest.approx(3.0, rel=0.15)
    steps = np.linalg.norm(np.diff(found, axis=0), axis=1)
    assert 0 < steps.max() <= 3.0 * np.sqrt(2) * 2 * np.pi * 0.25 * np.sqrt(3)


def test_clips_differ_and_a_clip_repeats():
    jitter = dict(type="ClipCameraJitter", prob=1.0)
    a, again, b = (shifts(run(jitter, 16, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 0.1


def test_only_a_share_of_the_clips_is_shaken():
    shaken = sum(
        bool(shifts(run(dict(type="ClipCameraJitter", prob=0.3), 4, seed)).any())
        for seed in range(200)
    )
    assert 40 <= shaken <= 80


@pytest.mark.parametrize("seed", range(5))
def test_the_exposure_drifts_at_one_rate(seed):
    clip = run(dict(type="ClipExposureDrift", prob=1.0, rate=(0.02, 0.02)), 12, seed)
    light = np.array([frame["img"].mean() for frame in clip])
    stops = np.diff(np.log2(light))
    np.testing.assert_allclose(np.abs(stops), 0.02, atol=0.01)  # pixels are rounded
    assert abs(stops.mean()) == pytest.approx(0.02, abs=0.001)
    assert (np.sign(stops) == np.sign(stops[0])).all()
    assert clip[0]["img"].dtype == np.uint8


def test_exposure_neither_wraps_nor_leaves_the_range():
    transform = ClipExposureDrift(prob=1.0, rate=(1.0, 1.0), span=1)
    for dtype in (np.uint8, np.float32):
        extremes = set()
        for seed in range(8):  # brighter or darker
            np.random.seed(seed)
            seen = transform(dict(img=np.full((4, 4, 3), 200, dtype), position=8))["img"]
            assert seen.dtype == dtype
            assert (seen == seen[0, 0]).all()
            extremes.add(float(seen.max()))
        assert max(extremes) == 255
        assert 0 <= min(extremes) < 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipCameraJitter(prob=1.5), "prob must lie between 0 and 1, found 1.5"),
        (lambda: ClipCameraJitter(strength=(2.0, 1.0)), "strength must be"),
        (lambda: ClipExposureDrift(rate=(0.0, 1.0)), "rate must be"),
        (lambda: ClipExposureDrift(span=0), "span must be at least 1 frame, found 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
