"""Videos in and out: files, cameras and folders of images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Ending -> encoders from the best to the last resort. Browsers play H.264 (avc1) and VP9 (vp09,
# VP90), and MPEG-4 part 2 (mp4v) not at all.
ENCODERS = {
    ".mp4": ("avc1", "vp09", "mp4v"),
    ".webm": ("VP90", "VP80"),
    ".mkv": ("avc1", "VP90", "mp4v"),
    ".avi": ("MJPG",),
}
_FFMPEG_LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
IN_BROWSERS = {"avc1", "vp09", "VP90", "VP80"}


class VideoError(RuntimeError):
    """A video that cannot be read or written; the message says which, where, and why."""


class VideoSource(AbstractContextManager["VideoSource"]):
    """The frames of a video file, a camera or a folder of images, in order.

    Args:
        source: a file; a folder, whose images are taken in the order of their names; or a camera:
            its number, or a stream's address (``rtsp://...``).

    Attributes:
        name: for messages.
        size: (width, height) of the first frame.
        fps: frames per second; 25 where the source does not say.
        count: frames that the source says it has; None for a camera.

    Raises:
        VideoError: if there is no such source, it cannot be opened, or it has no frame.
    """

    def __init__(self, source: str | int | Path) -> None:
        text = str(source)
        self.name = text
        self.count: int | None = None
        self.fps = 25.0
        self._capture: cv2.VideoCapture | None = None
        self._files: list[Path] = []
        camera = text.isdecimal() or "://" in text
        if camera:
            self.name = f"camera {text}"
            self._open(int(text) if text.isdecimal() else text, "cannot be opened")
        elif Path(text).is_dir():
            self._files = sorted(p for p in Path(text).iterdir() if p.suffix.lower() in IMAGES)
            if not self._files:
                raise VideoError(f"{text}: no images there, looked for {', '.join(sorted(IMAGES))}")
            self.count = len(self._files)
        elif not Path(text).exists():
            raise VideoError(f"{text}: no such file or folder")
        elif Path(text).stat().st_size == 0:
            raise VideoError(f"{text}: the file is empty")
        else:
            self._open(text, "not a video that OpenCV can read, or cut off")
            assert self._capture is not None
            self.count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) or None
        self._next = self._read(0)
        if self._next is None:
            self.close()
            raise VideoError(f"{self.name}: no frame can be read")
        self.size = (self._next.shape[1], self._next.shape[0])

    def _open(self, what: str | int, problem: str) -> None:
        with _quiet():
            capture = cv2.VideoCapture(what)
        if not capture.isOpened():
            raise VideoError(f"{self.name}: {problem}")
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 1 <= rate <= 1000 else 25.0
        self._capture = capture

    def _read(self, index: int) -> Image | None:
        if self._capture is not None:
            good, image = self._capture.read()
            return image if good else None  # type: ignore[return-value]
        if index >= len(self._files):
            return None
        found = cv2.imread(str(self._files[index]), cv2.IMREAD_COLOR)
        if found is None:
            raise VideoError(f"{self._files[index]}: cannot be read as an image")
        return found  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Image]:
        """Frames (H, W, 3) BGR; once.

        Raises:
            VideoError: after the last good frame, for one of another size than the first or an
                image that cannot be read. A file that ends before the last frame that it announces
                gives the frames that it has, and a warning.
        """
        index = 0
        while self._next is not None:
            image = self._next
            if (image.shape[1], image.shape[0]) != self.size:
                raise VideoError(
                    f"{self._at(index)} has {image.shape[1]}x{image.shape[0]} pixels, those before "
                    f"{self.size[0]}x{self.size[1]}: a video must keep its size"
                )
            yield image
            index += 1
            self._next = self._read(index)
        # No error: what a container announces is an estimate in some, and wrong in others.
        if self.count is not None and self.count > index:
            warnings.warn(
                f"{self.name} ended after {index} of {self.count} frames; it may be cut off",
                stacklevel=2,
            )

    def _at(self, index: int) -> str:
        return str(self._files[index]) if self._files else f"{self.name}: frame {index}"

    def close(self) -> None:
        """Lets go of the file or camera."""
        if self._capture is not None:
            self._capture.release()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class VideoSink(AbstractContextManager["VideoSink"]):
    """Writes a video, or an animated GIF, by the file's ending; what was written by then plays.

    ``.mp4`` is H.264 where this OpenCV has an encoder for it, else VP9; browsers play both. A frame
    of odd size gets a black column or row.

    Args:
        path: the file: .mp4, .webm, .mkv, .avi or .gif.
        fps: frames per second.

    Attributes:
        encoder: the code of the encoder; empty before the first frame.
        count: frames written.

    Raises:
        VideoError: for another ending; with the first frame, if no encoder works here or the file
            cannot be written.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        self.fps = fps
        self.encoder = ""
        self.count = 0
        self._writer: cv2.VideoWriter | None = None
        self._gif: list[Any] = []
        endings = (*ENCODERS, ".gif")
        if self.path.suffix.lower() not in endings:
            raise VideoError(f"{path}: the ending must be one of {', '.join(endings)}")

    @property
    def in_browsers(self) -> bool:
        """Whether browsers play it."""
        return self.encoder in IN_BROWSERS or self.encoder == "gif"

    def write(self, image: Image) -> None:
        """Appends a frame (H, W, 3) BGR, of the same size as those before."""
        if self.path.suffix.lower() == ".gif":
            self._write_gif(image)
        else:
            height, width = image.shape[:2]
            if height % 2 or width % 2:
                image = cv2.copyMakeBorder(  # type: ignore[assignment]
                    image, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT
                )
            if self._writer is None:
                self._begin((image.shape[1], image.shape[0]))
            assert self._writer is not None
            self._writer.write(image)
        self.count += 1

    def _begin(self, size: tuple[int, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            for code in ENCODERS[self.path.suffix.lower()]:
                fourcc = cv2.VideoWriter.fourcc(*code)
                writer = cv2.VideoWriter(str(self.path), fourcc, self.fps, size)
                if writer.isOpened():
                    self._writer, self.encoder = writer, code
                    return
        raise VideoError(
            f"{self.path}: cannot be written: the folder is read-only or this OpenCV has none of "
            f"the encoders {', '.join(ENCODERS[self.path.suffix.lower()])}"
        )

    def _write_gif(self, image: Image) -> None:
        from PIL import Image as Picture  # comes with matplotlib

        self.encoder = "gif"
        rgb = Picture.fromarray(np.ascontiguousarray(image[..., ::-1]))
        self._gif.append(rgb.quantize(128, dither=Picture.Dither.NONE))

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if self._gif:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            first, *others = self._gif
            duration = round(1000 / self.fps)
            first.save(self.path, save_all=True, append_images=others, duration=duration, loop=0)
            self._gif = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what OpenCV and FFmpeg say on stderr about files they cannot read and encoders they
    lack: the errors raised here say it.
    """
    # OpenCV 4 has these at the top, OpenCV 5 in a module of their own.
    log: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    level = log.getLogLevel()
    before = os.environ.get(_FFMPEG_LEVEL)
    os.environ.setdefault(_FFMPEG_LEVEL, "-8")  # read once, when the first video is opened
    log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)
        if before is None:
            del os.environ[_FFMPEG_LEVEL]
