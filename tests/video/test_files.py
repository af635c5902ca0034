"""Videos in and out, good and bad."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from skippose.video import VideoError, VideoSink, VideoSource


def frames(count: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Frames (H, W, 3) whose brightness tells their number."""
    return [np.full((size[1], size[0], 3), (20 + 8 * n) % 256, np.uint8) for n in range(count)]


def write(path: Path, count: int = 12, size: tuple[int, int] = (64, 48)) -> Path:
    with VideoSink(path, 25) as sink:
        for image in frames(count, size):
            sink.write(image)
    return path


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".avi", ".mkv"])
def test_what_was_written_is_read(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a{ending}")
    with VideoSource(path) as video:
        assert (video.size, video.fps) == ((64, 48), 25.0)
        seen = list(video)
    assert len(seen) == 12
    for n, image in enumerate(seen):
        assert abs(float(image.mean()) - (20 + 8 * n)) < 4


def test_an_odd_size_is_filled_up(tmp_path: Path) -> None:
    path = write(tmp_path / "odd.mp4", 3, (63, 47))
    with VideoSource(path) as video:
        assert video.size == (64, 48)
        assert len(list(video)) == 3


def test_a_gif_is_animated(tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(write(tmp_path / "a.gif")) as gif:
        assert gif.n_frames == 12
        assert gif.info["duration"] == 40


def test_mp4_plays_in_browsers_if_there_is_an_encoder(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "a.mp4", 25) as sink:
        sink.write(frames(1)[0])
        assert sink.in_browsers == (sink.encoder in ("avc1", "vp09"))


def test_a_folder_of_images_in_the_order_of_names(tmp_path: Path) -> None:
    for n, image in enumerate(frames(3)):
        cv2.imwrite(str(tmp_path / f"{2 - n:03d}.png"), image)
    (tmp_path / "notes.txt").write_text("no image")
    with VideoSource(tmp_path) as video:
        assert video.count == 3
        assert [image[0, 0, 0] for image in video] == [36, 28, 20]


def test_a_size_that_changes_midway_is_an_error_after_the_good_frames(tmp_path: Path) -> None:
    for n, image in enumerate([*frames(2), *frames(1, (80, 48))]):
        cv2.imwrite(str(tmp_path / f"{n}.png"), image)
    seen = []
    with (
        VideoSource(tmp_path) as video,
        pytest.raises(VideoError, match=r"2\.png has 80x48 pixels, those before 64x48"),
    ):
        for image in video:
            seen.append(image)
    assert len(seen) == 2


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), frames(1)[0])
    (tmp_path / "1.png").write_bytes(b"no image")
    with VideoSource(tmp_path) as video, pytest.raises(VideoError, match=r"1\.png: cannot be read"):
        list(video)


def test_a_truncated_file_gives_what_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoSource(path) as video:
        if video.count == 40:
            with pytest.warns(UserWarning, match=r"ended after \d+ of 40 frames"):
                count = len(list(video))
        else:
            count = len(list(video))
    assert 0 < count < 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        (b"", "the file is empty"),
        (b"this is no video" * 100, "not a video that OpenCV can read"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=rf"a\.mp4: {message}"):
        VideoSource(path)


def test_a_truncated_mp4_without_its_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="cut off"):
        VideoSource(path)


def test_a_camera_that_cannot_be_opened() -> None:
    with pytest.raises(VideoError, match="camera 97: cannot be opened"):
        VideoSource(97)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no images there"):
        VideoSource(tmp_path)


def test_endings_that_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"the ending must be one of \.mp4, .*\.gif"):
        VideoSink(tmp_path / "a.mov2", 25)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with (
        VideoSink(tmp_path / "a.mp4", 25) as sink,
        pytest.raises(VideoError, match="cannot be written"),
    ):
        sink.write(frames(1)[0])


def test_an_error_on_the_way_leaves_a_file_that_plays(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(RuntimeError, match="on the way"), VideoSink(path, 25) as sink:
        for image in frames(5):
            sink.write(image)
        raise RuntimeError("on the way")
    with VideoSource(path) as video:
        assert len(list(video)) == 5


def test_nothing_is_said_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 99)
    write(tmp_path / "a.mp4")
    with pytest.raises(VideoError):
        VideoSource(tmp_path / "bad.mp4")
    assert "OpenCV" not in capfd.readouterr().err
