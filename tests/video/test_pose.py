"""``VideoPose``: frames in, poses, masks and costs out."""

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmpose")

from mmengine.config import Config
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

import skippose
from skippose.backends import BACKENDS, PlanBackend
from skippose.backends.torch_blocks.backend import BlocksBackend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.video import BoxError, FirstBox, VideoError, VideoPose, VideoSink, VideoSource
from skippose.visualization.stream_masks import stream_records

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "demo" / "skip_hrnet_small.py"
CHECKPOINT = ROOT / "configs" / "demo" / "hrnet_small_synthetic.pth"
WIDTH, HEIGHT = 160, 120


@pytest.fixture(scope="module")
def pose() -> VideoPose:
    return VideoPose(CONFIG, CHECKPOINT)


def scene(t: int) -> np.ndarray:
    """(H, W, 3) BGR: a textured square that moves over a still, textured background."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (HEIGHT // 4, WIDTH // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    x = 20 + 2 * (t % 40)
    image[50:74, x : x + 16] = rng.integers(100, 255, (24, 16, 3), np.uint8)
    return image


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for t in range(6):
        cv2.imwrite(str(folder / f"{t:03d}.png"), scene(t))
    return folder


def test_five_lines_are_enough(video: Path) -> None:
    pose = skippose.VideoPose(CONFIG, CHECKPOINT)
    frames = list(pose(video, whole_frame=True))
    assert [frame.index for frame in frames] == list(range(6))
    person = frames[3].people[0]
    assert person.keypoints.shape == (15, 2) and person.scores.shape == (15,)
    assert frames[0].gmacs == pytest.approx(frames[0].dense_gmacs) and frames[0].fresh
    assert all(0 < frame.share < 0.5 and not frame.fresh for frame in frames[1:])


def test_poses_are_those_of_the_dense_network_where_all_is_computed(video: Path) -> None:
    """With thresholds of 0: by hand, without any of what is tested."""
    config = Config.fromfile(CONFIG)
    config.model.backbone.gate.update(eps=0.0, scale="absolute")
    pose = VideoPose(config, CHECKPOINT)
    boxes = FirstBox((30, 10, 80, 100), follow=False)
    for frame in pose(video, boxes=boxes):
        person = frame.people[0]
        crop = cv2.warpAffine(frame.image, person.matrix, (128, 128), flags=cv2.INTER_LINEAR)
        inputs = torch.from_numpy(crop).permute(2, 0, 1)
        sample = PoseDataSample(gt_instances=InstanceData())
        data = dict(inputs=[inputs], data_samples=[sample])
        batch = pose.network.data_preprocessor(data, False)
        with torch.no_grad():
            (found,) = pose.network.head.decode(pose.network(batch["inputs"], mode="tensor"))
        back = cv2.invertAffineTransform(person.matrix)
        expected = found.keypoints[0] @ back[:, :2].T + back[:, 2]
        np.testing.assert_allclose(person.keypoints, expected, atol=0.5)
        np.testing.assert_allclose(person.scores, found.keypoint_scores[0], atol=1e-3)


@pytest.fixture
def whole_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves as backend 'torch' on a GPU serves here too, and 'native' does not."""
    make = classmethod(lambda cls, *given, **options: MapsBackend(*given, **options))
    monkeypatch.setattr(BlocksBackend, "make", make)
    nothing = classmethod(lambda cls: "the test stands for a GPU")
    monkeypatch.setattr(BACKENDS["native"], "unavailable", nothing)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_of_a_stream_are_those_of_a_clip(pose: VideoPose, backend: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 128, 128)
    images[1:] = images[0]
    for t in range(1, 4):
        images[t, :, 40:60, 10 * t : 10 * t + 20] += 1
    with torch.no_grad(), skippose.clips(4, keep_masks=True) as run:
        pose.network(images, mode="tensor")
    names = {module: name for name, module in pose.network.named_modules()}
    if reason := BACKENDS[backend].unavailable():
        pytest.skip(f"no backend {backend!r}: {reason}")
    stream = skippose.Stream(pose.network, backend)
    with pytest.raises(ValueError, match="a frame first"):
        stream_records(stream)
    for t in range(4):
        stream(images[t : t + 1])
        seen = stream_records(stream)
        assert len(seen) == sum(r.gate is not None for r in run.records.values())
        different = total = 0
        for call, record in run.records.items():
            if record.gate is None:
                continue
            found = seen[names[call.layer]]
            assert (found.block, found.out_size) == (record.block, record.out_size)
            assert found.macs == record.macs
            different += int((found.gate[0, 0] != record.gate[0, t]).sum())
            total += record.gate[0, t].numel()
        # A mask flips within the rounding of its threshold, and changes what follows.
        assert different <= 0.01 * total, (t, different, total)


def check_costs(pose: VideoPose, video: Path) -> None:
    """Where nothing moved nothing is computed."""
    for frame in pose(video, boxes=FirstBox((0, 0, WIDTH, HEIGHT), follow=False)):
        cost = frame.people[0].cost
        assert cost.shape == (128, 128) and cost.dtype == np.float32
        if frame.index == 0:
            assert (cost == 1).all()
            continue
        # The square is in the middle of the height and the left two thirds of the width.
        assert cost[40:80].max() > 0.3
        assert cost[:8].max() == cost[-8:].max() == 0


def ran_with(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes which backends tell their masks."""
    told: list[str] = []

    def masks(backend: PlanBackend) -> dict:
        told.append(type(backend).__name__)
        return before(backend)

    before = PlanBackend.masks
    monkeypatch.setattr(PlanBackend, "masks", masks)
    return told


def test_masks_come_from_the_fastest_backend(video: Path, monkeypatch) -> None:
    if reason := BACKENDS["native"].unavailable():
        pytest.skip(f"no backend 'native': {reason}")
    told = ran_with(monkeypatch)
    check_costs(VideoPose(CONFIG, CHECKPOINT), video)
    assert set(told) == {"NativeBackend"}


def test_masks_come_from_whole_maps_where_those_run(video: Path, whole_maps, monkeypatch) -> None:
    told = ran_with(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_costs(VideoPose(CONFIG, CHECKPOINT), video)
    assert set(told) == {"MapsBackend"}


@pytest.mark.parametrize("backend", ["torch", "eager"])
def test_masks_come_from_the_backend_that_is_asked_for(video: Path, backend: str) -> None:
    check_costs(VideoPose(CONFIG, CHECKPOINT, backend=backend), video)


def test_without_masks_there_are_none_and_poses_are_the_same(pose: VideoPose, video: Path) -> None:
    plain = VideoPose(CONFIG, CHECKPOINT, masks=False)
    for one, other in zip(
        pose(video, whole_frame=True), plain(video, whole_frame=True), strict=True
    ):
        assert other.people[0].cost is None
        np.testing.assert_array_equal(one.people[0].keypoints, other.people[0].keypoints)
        assert one.gmacs == other.gmacs


def write_tracks(path: Path, boxes: list[tuple[int, ...]]) -> Path:
    path.write_text("".join(",".join(map(str, box)) + "\n" for box in boxes))
    return path


def test_two_people_have_a_slot_each(pose: VideoPose, video: Path, tmp_path: Path) -> None:
    boxes = [(t + 1, track, 10 + 70 * track, 20, 60, 80) for t in range(6) for track in (0, 1)]
    boxes = [box for box in boxes if box[:2] != (6, 1)]  # the second one leaves
    tracks = write_tracks(tmp_path / "tracks.txt", boxes)
    frames = list(pose(video, tracks=tracks))
    assert [len(frame.people) for frame in frames] == [2, 2, 2, 2, 2, 1]
    assert frames[0].dense_gmacs == pytest.approx(2 * frames[-1].dense_gmacs)
    alone = list(pose(video, boxes=FirstBox((80, 20, 60, 80), follow=False)))
    for frame, single in zip(frames[:5], alone[:5], strict=True):
        np.testing.assert_allclose(frame.people[1].keypoints, single.people[0].keypoints, atol=1)


def test_a_stabilised_window_costs_less_under_a_pan(tmp_path: Path) -> None:
    """The person stands there, and the camera goes by with 2 pixels a frame."""
    wide = cv2.copyMakeBorder(scene(0), 0, 0, 0, 40, cv2.BORDER_REFLECT)
    folder = tmp_path / "pan"
    folder.mkdir()
    lines = []
    for t in range(12):
        cv2.imwrite(str(folder / f"{t:03d}.png"), wide[:, 2 * t : 2 * t + WIDTH])
        lines.append(f"{t + 1},7,{90 - 2 * t},20,40,80")
    tracks = tmp_path / "tracks.txt"
    tracks.write_text("\n".join(lines))
    spent = []
    for stabilise in (False, True):
        pose = VideoPose(CONFIG, CHECKPOINT, masks=False, stabilise=stabilise)
        spent.append(sum(frame.gmacs for frame in pose(folder, tracks=tracks)))
    assert spent[1] < 0.5 * spent[0], spent


def test_frames_without_anybody(pose: VideoPose, video: Path, tmp_path: Path) -> None:
    tracks = write_tracks(tmp_path / "tracks.txt", [(3, 5, 10, 20, 60, 80)])
    frames = list(pose(video, tracks=tracks))
    assert [list(frame.people) for frame in frames] == [[], [], [5], [], [], []]
    assert frames[1].share == 0 and frames[1].gmacs == 0
    summary = pose.write(video, tmp_path / "out.mp4", tracks=tracks)
    assert summary.frames == 6


def test_a_written_video_has_as_many_frames_and_its_pictures_show_the_pose(
    pose: VideoPose, video: Path, tmp_path: Path
) -> None:
    pictures = []
    summary = pose.write(
        video,
        tmp_path / "out.mp4",
        whole_frame=True,
        on_frame=lambda frame, picture: pictures.append(picture),
    )
    with VideoSource(tmp_path / "out.mp4") as out:
        seen = list(out)
    assert len(seen) == len(pictures) == summary.frames == 6
    assert summary.encoder and summary.gmacs < summary.dense_gmacs
    for image, picture in zip(seen, pictures, strict=True):
        assert image.shape == picture.shape
        assert np.abs(image.astype(int) - picture).mean() < 12
    # Enlarged four times; the still background of the last frame is as it was, but for the pose.
    plain = cv2.resize(scene(5), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    same = (pictures[-1][: 4 * HEIGHT] == plain).all(-1)
    assert 0.5 < same.mean() < 0.99


def test_a_video_ends_where_its_caller_says(pose: VideoPose, video: Path, tmp_path: Path) -> None:
    summary = pose.write(
        video, tmp_path / "a.mp4", whole_frame=True, on_frame=lambda f, p: f.index < 2
    )
    assert summary.frames == 3
    with VideoSource(tmp_path / "a.mp4") as out:
        assert len(list(out)) == 3


def test_what_was_written_before_an_error_plays(pose: VideoPose, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(4):
        image = scene(t) if t < 3 else np.zeros((64, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"{t}.png"), image)
    with pytest.raises(VideoError, match=r"3\.png has 64x64 pixels, those before 160x120"):
        pose.write(folder, tmp_path / "out.mp4", whole_frame=True)
    with VideoSource(tmp_path / "out.mp4") as out:
        assert len(list(out)) == 3


def test_the_source_is_not_overwritten(pose: VideoPose, tmp_path: Path) -> None:
    source, link = tmp_path / "a.mp4", tmp_path / "link.mp4"
    with VideoSink(source, 25) as sink:
        for t in range(3):
            sink.write(scene(t))
    link.symlink_to(source)
    content = source.read_bytes()
    for out in (source, link):
        with pytest.raises(VideoError, match="is the video that is read"):
            pose.write(str(source), out, whole_frame=True)
    assert source.read_bytes() == content


def test_bad_questions(pose: VideoPose, video: Path, tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="lies outside of the frame of 160x120"):
        list(pose(video, bbox=(170, 10, 20, 20)))
    with pytest.raises(ValueError, match="give one of bbox, tracks"):
        pose(video, bbox=(0, 0, 9, 9), whole_frame=True)
    with pytest.raises(BoxError, match="lies outside"):
        pose.write(video, tmp_path / "a.mp4", bbox=(170, 10, 20, 20))
    assert not (tmp_path / "a.mp4").exists()
    with pytest.raises(ValueError, match="backend must be one of"):
        VideoPose(CONFIG, CHECKPOINT, masks=False, backend="magic")
    config = Config.fromfile(CONFIG)
    config.model.data_preprocessor.bgr_to_rgb = False
    with pytest.raises(ValueError, match="feeds RGB"):
        VideoPose(config, CHECKPOINT)
    config = Config.fromfile(CONFIG)
    config.model.backbone.gate = None
    with pytest.raises(ValueError, match="no gated convolution"):
        VideoPose(config, CHECKPOINT)


@pytest.mark.slow
def test_memory_is_flat_over_2000_frames(pose: VideoPose) -> None:
    class Endless(VideoSource):
        def __init__(self) -> None:
            self.name, self.size, self.fps, self.count = "endless", (WIDTH, HEIGHT), 25.0, 2000

        def __iter__(self):
            return (scene(t) for t in range(2000))

        def close(self) -> None:
            pass

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to tell its memory")
    painter, seen = pose.painter(), {}
    for frame in pose(Endless(), whole_frame=True):
        painter.draw(frame)
        if frame.index in (200, 1999):
            seen[frame.index] = resident()
    # One frame kept would be 58 kB, 100 MB in all.
    assert seen[1999] - seen[200] < 16, seen
    print(seen)
