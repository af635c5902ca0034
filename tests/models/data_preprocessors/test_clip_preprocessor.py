"""ClipPoseDataPreprocessor: clips padded and normalised frame by frame, images as ever."""

from inspect import signature

import pytest
import torch
from mmengine.dataset import pseudo_collate

from skippose import compat

compat.apply()

from mmpose.models.data_preprocessors import PoseDataPreprocessor  # noqa: E402
from mmpose.structures import PoseDataSample  # noqa: E402

from skippose.models.data_preprocessors import ClipPoseDataPreprocessor  # noqa: E402

# mmpose 1.1's preprocessor is mmengine's for images, which knows none.
AUGMENTS = "batch_augments" in signature(PoseDataPreprocessor).parameters
SETTINGS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def clip(frames: int, name: str = "a", size: tuple = (6, 8)) -> dict:
    generator = torch.Generator().manual_seed(frames * 31 + ord(name))
    inputs = torch.randint(0, 255, (frames, 3, *size), generator=generator, dtype=torch.uint8)
    samples = [PoseDataSample(metainfo=dict(clip_id=name, frame=t)) for t in range(frames)]
    return dict(inputs=inputs, data_samples=samples)


def batch(*clips: dict) -> dict:
    return {key: [c[key] for c in clips] for key in ("inputs", "data_samples")}


def identity(samples: list) -> list:
    return [[(s.clip_id, s.frame) for s in group] for group in samples]


def test_every_frame_is_what_the_image_preprocessor_makes_of_it():
    clips = [clip(4, "a"), clip(4, "b")]
    out = ClipPoseDataPreprocessor(**SETTINGS)(batch(*clips))
    images = [frame for c in clips for frame in c["inputs"]]
    samples = [PoseDataSample() for _ in images]
    single = PoseDataPreprocessor(**SETTINGS)(dict(inputs=images, data_samples=samples))
    assert torch.equal(out["inputs"], single["inputs"])
    assert out["inputs"].shape == (8, 3, 6, 8)
    # Colours are swapped, frames are not: red of the first frame, by hand.
    red = (clips[0]["inputs"][0, 2].float() - 123.675) / 58.395
    torch.testing.assert_close(out["inputs"][0, 0], red)
    assert identity(out["data_samples"]) == [[(n, t) for t in range(4)] for n in "ab"]


def test_short_clips_are_padded_with_their_last_frame():
    clips = [clip(2, "a"), clip(5, "b"), clip(1, "c")]
    preprocessor = ClipPoseDataPreprocessor(**SETTINGS)
    out = preprocessor(batch(*clips))
    assert out["inputs"].shape == (15, 3, 6, 8)
    for index, one in enumerate(clips):
        alone = preprocessor(batch(one))["inputs"]
        rows = out["inputs"][index * 5 : index * 5 + 5]
        assert torch.equal(rows[: len(alone)], alone)
        assert (rows[len(alone) :] == alone[-1]).all()
    assert [len(group) for group in out["data_samples"]] == [2, 5, 1]


def test_images_are_left_to_the_image_preprocessor():
    images = [torch.randint(0, 255, (3, 6, 8), dtype=torch.uint8) for _ in range(3)]
    made = []
    for kind in (ClipPoseDataPreprocessor, PoseDataPreprocessor):
        samples = [PoseDataSample(metainfo=dict(img_id=n)) for n in range(3)]
        made.append(
            kind(**SETTINGS, pad_size_divisor=16)(dict(inputs=images, data_samples=samples))
        )
    ours, theirs = made
    assert torch.equal(ours["inputs"], theirs["inputs"])
    for a, b in zip(ours["data_samples"], theirs["data_samples"], strict=True):
        assert a.metainfo == b.metainfo
    stacked = torch.stack(images)
    assert torch.equal(
        ClipPoseDataPreprocessor(**SETTINGS)(dict(inputs=stacked, data_samples=[]))["inputs"],
        PoseDataPreprocessor(**SETTINGS)(dict(inputs=stacked, data_samples=[]))["inputs"],
    )


@pytest.mark.parametrize("lengths", [(3, 3), (4, 4, 4), (2, 2), (1, 1, 1), (5,)])
def test_samples_that_mmengine_has_turned_around_are_turned_back(lengths):
    clips = [clip(length, "abc"[n]) for n, length in enumerate(lengths)]
    collated = pseudo_collate(clips)
    out = ClipPoseDataPreprocessor(**SETTINGS)(collated)
    expected = [[("abc"[n], t) for t in range(length)] for n, length in enumerate(lengths)]
    assert identity(out["data_samples"]) == expected
    straight = ClipPoseDataPreprocessor(**SETTINGS)(batch(*clips))
    assert identity(straight["data_samples"]) == expected
    assert torch.equal(out["inputs"], straight["inputs"])


def test_clips_in_one_tensor_and_without_samples():
    clips = [clip(3, "a"), clip(3, "b")]
    preprocessor = ClipPoseDataPreprocessor(**SETTINGS)
    expected = preprocessor(batch(*clips))["inputs"]
    out = preprocessor(dict(inputs=torch.stack([c["inputs"] for c in clips]), data_samples=None))
    assert torch.equal(out["inputs"], expected) and out["data_samples"] is None


def test_sizes_are_padded_to_the_divisor_and_noted_on_the_samples():
    preprocessor = ClipPoseDataPreprocessor(**SETTINGS, pad_size_divisor=16)
    out = preprocessor(batch(clip(2, "a"), clip(3, "b")))
    assert out["inputs"].shape == (6, 3, 16, 16)
    noted = {s.get("batch_input_shape") for group in out["data_samples"] for s in group}
    assert noted == ({(16, 16)} if AUGMENTS else {None})  # mmpose 1.1 notes nothing


def test_float64_networks_are_not_special():
    """Normalisation is float32, as mmpose's is, whatever the network."""
    assert ClipPoseDataPreprocessor(**SETTINGS)(batch(clip(2)))["inputs"].dtype == torch.float32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            dict(inputs=[torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4)], data_samples=None),
            "found both: .*2, 3, 4, 4.*3, 4, 4",
        ),
        (dict(inputs=[torch.zeros(3, 2, 4, 4)], data_samples=None), r"found \(3, 2, 4, 4\)"),
        (dict(inputs=[torch.zeros(0, 3, 4, 4)], data_samples=None), r"found \(0, 3, 4, 4\)"),
        (
            dict(inputs=[torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4)], data_samples=None),
            r"clips of \[2, 3\] frames need data_samples",
        ),
        (
            dict(inputs=[torch.zeros(2, 3, 4, 4)], data_samples=[[PoseDataSample()] * 3]),
            r"clips of \[2\] frames .* found lists of \[3\]",
        ),
    ],
)
def test_bad_batches_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ClipPoseDataPreprocessor(**SETTINGS)(data)


def test_a_flat_list_of_samples_for_clips_is_refused():
    data = dict(inputs=[torch.zeros(2, 3, 4, 4)], data_samples=[PoseDataSample()])
    with pytest.raises(ValueError, match="found a flat list of 1"):
        ClipPoseDataPreprocessor(**SETTINGS)(data)


@pytest.mark.skipif(not AUGMENTS, reason="mmpose 1.1 has no batch_augments")
def test_batch_augments_are_for_images():
    resize = dict(type="BatchSyncRandomResize", random_size_range=(4, 8))
    preprocessor = ClipPoseDataPreprocessor(**SETTINGS, batch_augments=[resize])
    assert preprocessor(batch(clip(2)), training=False)["inputs"].shape == (2, 3, 6, 8)
    with pytest.raises(ValueError, match="batch_augments do not work on clips"):
        preprocessor(batch(clip(2)), training=True)
