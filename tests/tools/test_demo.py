"""tools/demo.py on good and bad videos, and on real people."""

import importlib.util
import json
import os
import re
import warnings
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

pytest.importorskip("mmpose")

from skippose.video import VideoSink, VideoSource

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SKIPPOSE_TEST_DATA", ROOT.parent / "shared" / "data"))
NETWORK = [
    "--config",
    str(ROOT / "configs" / "demo" / "skip_hrnet_small.py"),
    "--checkpoint",
    str(ROOT / "configs" / "demo" / "hrnet_small_synthetic.pth"),
]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "in.mp4"
    scene = np.random.default_rng(0).integers(0, 200, (30, 40, 3), np.uint8).repeat(4, 0)
    scene = scene.repeat(4, 1)
    with VideoSink(path, 30) as sink:
        for t in range(5):
            image = scene.copy()
            image[40:80, 30 + 4 * t : 60 + 4 * t] = (40, 60, 220)
            sink.write(image)
    return path


def read(path: Path) -> tuple[int, float]:
    with VideoSource(path) as out:
        return len(list(out)), out.fps


def test_a_video_of_the_same_length_and_rate(
    demo: ModuleType, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main(
        [str(video), *NETWORK, "--bbox", "20", "30", "60", "60", "--out", f"{tmp_path}/o.mp4"]
    )
    assert read(tmp_path / "o.mp4") == (5, 30)
    said = capsys.readouterr().out
    assert "5 frames at" in said and "network" in said and "of the dense network's" in said
    assert "o.mp4 (" in said


def test_it_stops_after_the_frames_that_are_wanted(
    demo: ModuleType, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.webm"
    demo.main([str(video), *NETWORK, "--whole-frame", "--frames", "2", "--out", str(out)])
    assert read(out) == (2, 30)


def test_a_window_shows_it_and_q_ends_it(
    demo: ModuleType, video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = []
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda wait: ord("q") if len(shown) == 3 else -1)
    demo.main([str(video), *NETWORK, "--whole-frame", "--show"])
    assert len(shown) == 3 and shown[0].shape[2] == 3


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (["--bbox", "170", "10", "20", "20"], "lies outside of the frame of 160x120 pixels"),
        (["--bbox", "10", "10", "0", "20"], "width and height must be above 0, found 0 x 20"),
        (["--tracks", "none.txt"], "none.txt: no such tracks file"),
        (["--whole-frame", "--backend", "magic"], "'magic'"),
        (["--cfg-options", "model.backbone.gate.epz=1"], r"skip_hrnet_small.py: .*'epz'"),
        (["--cfg-options", "model.backbone.gate.type=None1"], "unknown gate type 'None1'"),
        (["--cfg-options", "model.head.type.a=1"], r"skip_hrnet_small.py: .*"),
        (["--checkpoint", str(ROOT / "README.md")], r"README.md is no checkpoint: invalid load"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    demo: ModuleType, video: Path, tmp_path: Path, where: list[str], message: str
) -> None:
    out = tmp_path / "o.mp4"
    with pytest.raises(SystemExit, match=message) as error:
        demo.main([str(video), *NETWORK, *where, "--out", str(out)])
    assert str(error.value).startswith("error: ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mp4", None, "no such file or folder"),
        ("empty.mp4", b"", "the file is empty"),
        ("text.mp4", b"not a video" * 99, "not a video that OpenCV can read, or cut off"),
        ("97", None, "camera 97: cannot be opened"),
    ],
)
def test_sources_that_cannot_be_read(
    demo: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        demo.main([name, *NETWORK, "--whole-frame", "--out", "o.mp4"])


def test_what_was_written_before_an_interruption_plays(
    demo: ModuleType, video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = []

    def interrupt(name: str, picture: np.ndarray) -> None:
        shown.append(picture)
        if len(shown) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "imshow", interrupt)
    monkeypatch.setattr(cv2, "waitKey", lambda wait: -1)
    out = tmp_path / "o.mp4"
    with pytest.raises(SystemExit, match="interrupted"):
        demo.main([str(video), *NETWORK, "--whole-frame", "--show", "--out", str(out)])
    assert read(out)[0] == 4


def test_a_video_that_is_cut_off_is_a_warning(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.avi"
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), np.uint8)
    with VideoSink(path, 25) as sink:
        for image in noise:
            sink.write(image)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoSource(path) as cut:
        if cut.count != 12:
            pytest.skip("this OpenCV does not say how many frames the header announces")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as PYTHONWARNINGS=ignore does
        demo.main([str(path), *NETWORK, "--whole-frame", "--out", str(tmp_path / "o.mp4")])
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"warning: .* ended after \d of 12 frames", said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cfg-options", "model.backbone.gate"], "--cfg-options takes KEY=VALUE"),
        (["--device", "cuda:1"], "--device cuda:1: torch finds no CUDA device"),
    ],
)
def test_bad_options_are_said_in_a_line(
    demo: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        demo.main(["in.mp4", *NETWORK, "--whole-frame", "--out", "o.mp4", *options])
    assert message in capsys.readouterr().err


def test_nothing_to_do_is_an_error(
    demo: ModuleType, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        demo.main([str(video), *NETWORK, "--whole-frame"])
    assert "give --out FILE, --show, or both" in capsys.readouterr().err


@pytest.mark.slow
def test_two_real_people_by_a_tracks_file(demo: ModuleType, tmp_path: Path) -> None:
    found = sorted(DATA.glob("posetrack18/annotations/val/*.json"))
    if not found:
        pytest.skip(f"no PoseTrack18 video in {DATA}; set SKIPPOSE_TEST_DATA")
    content = json.loads(found[0].read_text())
    images = sorted(content["images"], key=lambda image: image["file_name"])
    number = {image["id"]: n + 1 for n, image in enumerate(images)}
    people = sorted({a["track_id"] for a in content["annotations"]})[:2]
    lines = [
        f"{number[a['image_id']]},{a['track_id']},{','.join(map(str, a['bbox']))}\n"
        for a in content["annotations"]
        if a["track_id"] in people
    ]
    (tmp_path / "tracks.txt").write_text("".join(lines))
    with VideoSink(tmp_path / "in.mp4", 25) as sink:
        for image in images:
            sink.write(cv2.imread(str(DATA / "posetrack18" / image["file_name"])))
    video, tracks = str(tmp_path / "in.mp4"), str(tmp_path / "tracks.txt")
    args = demo.parse_args([video, *NETWORK, "--tracks", tracks, "--out", f"{tmp_path}/out.mp4"])
    done = demo.run(args, demo.Console())
    assert read(tmp_path / "out.mp4")[0] == len(images) == done.frames == 41
    assert 0 < done.gmacs < done.dense_gmacs
    print(f"network {done.network_seconds:.2f} s, drawing {done.drawing_seconds:.2f} s")
