"""Poses in videos, frame by frame: ``VideoPose(config, checkpoint)``."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import NDArray

from skippose.datasets.people import PeopleStream, Person
from skippose.evaluation.comparison import build_network
from skippose.report import Report
from skippose.stream import Stream
from skippose.video.boxes import Boxes, Detected, FirstBox, Tracks, WholeFrame, person_detector
from skippose.video.files import VideoError, VideoSink, VideoSource
from skippose.video.painter import FramePainter
from skippose.visualization.overlay import cost_map
from skippose.visualization.stream_masks import stream_records

Image = NDArray[np.uint8]
BBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class PersonPose:
    """One person in one frame.

    Attributes:
        keypoints: (K, 2) x, y in pixels of the frame.
        scores: (K,).
        window: (4,) ``x1, y1, x2, y2``: the crop window in pixels, unpadded.
        matrix: (2, 3) from the frame's pixels to the crop's.
        size: (width, height) of the crop.
        fresh: whether this person was computed in full: just come, or the window was placed anew.
        cost: (h, w) share of the gated layers' MACs spent at each pixel of the crop, 0 to 1; None
            without masks.
    """

    keypoints: NDArray[np.floating]
    scores: NDArray[np.floating]
    window: NDArray[np.floating]
    matrix: NDArray[np.floating]
    size: tuple[int, int]
    fresh: bool
    cost: NDArray[np.float32] | None = None

    @property
    def corners(self) -> NDArray[np.floating]:
        """(4, 2) corners of the crop in pixels of the frame."""
        width, height = self.size
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        inverse = cv2.invertAffineTransform(self.matrix)
        return corners @ inverse[:, :2].T + inverse[:, 2]


@dataclass(frozen=True)
class PoseFrame:
    """One frame and the people in it.

    Attributes:
        index: from 0.
        image: (H, W, 3) BGR.
        people: by track id.
        gmacs: what the network spent on this frame, over all people.
        dense_gmacs: what the dense network would have.
        seconds: of cropping, network and decoding.
        mask_seconds: of noting where it was computed.
    """

    index: int
    image: Image = field(repr=False)
    people: dict[Hashable, PersonPose]
    gmacs: float
    dense_gmacs: float
    seconds: float
    mask_seconds: float = 0.0

    @property
    def share(self) -> float:
        """``gmacs`` of ``dense_gmacs``; 0 without people."""
        return self.gmacs / self.dense_gmacs if self.dense_gmacs else 0.0

    @property
    def fresh(self) -> bool:
        """Whether somebody was computed in full."""
        return any(person.fresh for person in self.people.values())


@dataclass
class Summary:
    """What :meth:`VideoPose.write` did.

    Attributes:
        frames: run, and written.
        encoder: the code of the file's encoder.
        in_browsers: whether browsers play the file.
        network_seconds: cropping, network and decoding.
        drawing_seconds: masks and pictures.
        encoding_seconds: of the file.
        gmacs: spent in all.
        dense_gmacs: what the dense network would have spent.
    """

    frames: int = 0
    encoder: str = ""
    in_browsers: bool = True
    network_seconds: float = 0.0
    drawing_seconds: float = 0.0
    encoding_seconds: float = 0.0
    gmacs: float = 0.0
    dense_gmacs: float = 0.0


class VideoPose:
    """A gated pose network on videos::

        pose = skippose.VideoPose("config.py", "checkpoint.pth")
        for frame in pose("walk.mp4", bbox=(120, 40, 90, 200)):
            print(frame.index, frame.people[0].keypoints, frame.gmacs)
        pose.write("walk.mp4", "out.mp4", bbox=(120, 40, 90, 200))

    Every person has a slot of one :class:`skippose.Stream` and a crop window with hysteresis, which
    stays where it is until the person leaves it. A window placed anew is computed in full.

    Args:
        config: config file of a ``SkipTopdownPoseEstimator``, or the config itself.
        checkpoint: its weights, dense or gated.
        device: where the network runs.
        masks: note where the network computes, for pictures.
        backend: of the stream; by default the fastest one that can run the network.
        cut: see :class:`skippose.Stream`.
        refresh_every: likewise.
        threshold: scores below it are no joints to draw or to follow.
        stabilise: whether windows may follow the background of a moving camera, where that leaves
            less to compute: see :class:`skippose.datasets.steady_window.SteadyWindow`.
        allow_checkpoint_code: whether a checkpoint may hold more than weights, and with it run any
            code: see :func:`skippose.checkpoints.load_checkpoint`.

    Raises:
        CheckpointError: for a file that is no checkpoint, or that asks for more than weights.
        ValueError: for a checkpoint that does not fit, a network without gates, or masks of a
            backend that has none.
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        device: str = "cpu",
        masks: bool = True,
        backend: str = "auto",
        cut: float | None = None,
        refresh_every: int | None = None,
        threshold: float = 0.3,
        stabilise: bool = False,
        allow_checkpoint_code: bool = False,
    ) -> None:
        # Not at the top: mmpose.apis is a large import, and who imports skippose may not need it.
        from mmpose.apis.inference import dataset_meta_from_config

        self.config = config if isinstance(config, Config) else Config.fromfile(str(config))
        self.device = device
        self.masks = masks
        self.threshold = threshold
        self.stabilise = stabilise
        self.allow_checkpoint_code = allow_checkpoint_code
        model = self.config.model.to_dict()
        self.network: Any = build_network(model, str(checkpoint), device, allow_checkpoint_code)
        head = model["head"]
        self.input_size: tuple[int, int] = tuple(head["decoder"]["input_size"])
        normalise = model.get("data_preprocessor", {})
        if not normalise.get("bgr_to_rgb", False):
            raise ValueError("VideoPose feeds RGB; the config's data_preprocessor lacks bgr_to_rgb")
        self._normalise: dict[str, Any] = {
            k: tuple(normalise[k]) for k in ("mean", "std") if k in normalise
        }
        self.meta: dict[str, Any] = dataset_meta_from_config(deepcopy(self.config), "test") or {}
        self._options: dict[str, Any] = dict(backend=backend, cut=cut, refresh_every=refresh_every)
        # One frame now, which says what is wrong with the network or the backend.
        stream = self._stream()
        stream(torch.zeros(1, 3, *self.input_size[::-1], dtype=torch.float32, device=device))
        if masks:
            stream.masks()

    def _stream(self) -> Stream:
        return Stream(self.network, **self._options)

    # -- frames ----------------------------------------------------------------------------------

    def __call__(
        self,
        source: str | int | Path | VideoSource,
        bbox: BBox | None = None,
        tracks: str | Path | None = None,
        whole_frame: bool = False,
        boxes: Boxes | None = None,
    ) -> Iterator[PoseFrame]:
        """Poses of a video, frame by frame; nothing is kept of the frames before.

        Where the people are is said by one of ``bbox``, ``tracks``, ``whole_frame`` and ``boxes``;
        by none, mmpose's detector looks for them.

        Args:
            source: video file, folder of images, or camera: see `VideoSource`.
            bbox: x, y, width, height of one person in the first frame; the box follows the pose.
            tracks: a tracker's file, see `Tracks`.
            whole_frame: one person, the box is the frame.
            boxes: anything else that says where people are.

        Raises:
            VideoError: see `VideoSource`.
            BoxError: for a box outside of the frame or a bad tracks file; without mmdet, if nothing
                says where the people are.
            ValueError: if more than one of them does.
        """
        finder = self._boxes(bbox, tracks, whole_frame, boxes)
        video = source if isinstance(source, VideoSource) else VideoSource(source)
        return self._frames(video, finder)

    def _boxes(
        self,
        bbox: BBox | None,
        tracks: str | Path | None,
        whole_frame: bool,
        boxes: Boxes | None,
    ) -> Boxes:
        given = [bbox is not None, tracks is not None, whole_frame, boxes is not None]
        if sum(given) > 1:
            raise ValueError("give one of bbox, tracks, whole_frame and boxes, not several")
        if boxes is not None:
            return boxes
        if bbox is not None:
            return FirstBox(bbox)
        if tracks is not None:
            return Tracks(tracks)
        if whole_frame:
            return WholeFrame()
        return Detected(person_detector(self.device, self.allow_checkpoint_code))

    def _frames(self, video: VideoSource, boxes: Boxes) -> Iterator[PoseFrame]:
        with video:
            boxes.begin(video.size)
            stream = self._stream()
            people = PeopleStream(
                stream,
                self.input_size,
                boxes.capacity,
                stabilise=self.stabilise,
                device=self.device,
                **self._normalise,
            )
            spent = 0.0
            for index, image in enumerate(video):
                start = time.perf_counter()
                found = people(image, boxes.find(index, image))
                poses = {track: self._pose(person) for track, person in found.items()}
                seconds = time.perf_counter() - start
                boxes.saw({t: (p.keypoints, p.scores) for t, p in poses.items()})
                report = stream.report()
                before, spent = spent, _spent(report)
                start = time.perf_counter()
                if self.masks and poses:
                    poses = self._with_costs(stream, found, poses)
                yield PoseFrame(
                    index=index,
                    image=image,
                    people=poses,
                    gmacs=max(spent - before, 0.0),
                    dense_gmacs=report.dense_gmacs * len(poses),
                    seconds=seconds,
                    mask_seconds=time.perf_counter() - start,
                )

    def _pose(self, person: Person) -> PersonPose:
        (found,) = self.network.head.decode(person.output)
        return PersonPose(
            keypoints=person.to_image(found.keypoints[0]),
            scores=np.asarray(found.keypoint_scores[0]),
            window=person.window,
            matrix=person.matrix,
            size=self.input_size,
            fresh=person.fresh,
        )

    def _with_costs(
        self,
        stream: Stream,
        found: dict[Hashable, Person],
        poses: dict[Hashable, PersonPose],
    ) -> dict[Hashable, PersonPose]:
        records = stream_records(stream).values()
        size = self.input_size[::-1]
        return {
            track: replace(pose, cost=cost_map(records, found[track].slot, 0, size))
            for track, pose in poses.items()
        }

    # -- pictures --------------------------------------------------------------------------------

    def painter(self, **options: Any) -> FramePainter:
        """Draws the frames of one video; for the options see `FramePainter`."""
        links = self.meta.get("skeleton_links", ())
        return FramePainter(**{"links": links, "threshold": self.threshold, **options})

    def write(
        self,
        source: str | int | Path | VideoSource,
        out: str | Path | None,
        bbox: BBox | None = None,
        tracks: str | Path | None = None,
        whole_frame: bool = False,
        boxes: Boxes | None = None,
        on_frame: Callable[[PoseFrame, Image], bool | None] | None = None,
    ) -> Summary:
        """Writes a video with poses, what was computed, and a meter; what was written by then plays
        if something fails or is interrupted.

        Args:
            source: as for calling.
            out: the file, see `VideoSink`; None for no file.
            bbox: as for calling; likewise ``tracks``, ``whole_frame`` and ``boxes``.
            tracks: see ``bbox``.
            whole_frame: see ``bbox``.
            boxes: see ``bbox``.
            on_frame: called with each frame and its picture; ends the video by returning False.

        Raises:
            VideoError: also for a file that cannot be written, or that is the source itself.
        """
        finder = self._boxes(bbox, tracks, whole_frame, boxes)
        summary, painter = Summary(), self.painter()
        video = source if isinstance(source, VideoSource) else VideoSource(source)
        read = Path(video.name)
        if out is not None and read.exists() and Path(out).exists() and read.samefile(out):
            raise VideoError(f"{out} is the video that is read; write to another file")
        with nullcontext() if out is None else VideoSink(out, video.fps) as sink:
            for frame in self._frames(video, finder):
                start = time.perf_counter()
                picture = painter.draw(frame)
                drawn = time.perf_counter()
                if sink is not None:
                    sink.write(picture)
                    summary.encoder, summary.in_browsers = sink.encoder, sink.in_browsers
                summary.encoding_seconds += time.perf_counter() - drawn
                summary.drawing_seconds += drawn - start + frame.mask_seconds
                summary.network_seconds += frame.seconds
                summary.gmacs += frame.gmacs
                summary.dense_gmacs += frame.dense_gmacs
                summary.frames += 1
                if on_frame is not None and on_frame(frame, picture) is False:
                    break
        return summary


def _spent(report: Report) -> float:
    """GMACs so far, everything counted."""
    gated = report.gmacs * report.frames if report.frames else 0.0
    return gated + report.first_frames * report.first_gmacs
