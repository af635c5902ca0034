"""Where the people are: one box for the whole video, a tracker's file, or a detector."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skippose.checkpoints import checkpoints_run_no_code
from skippose.datasets.detections import iou

Box = NDArray[np.float32]
"""(4,) ``x1, y1, x2, y2`` in pixels."""
Detector = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""(H, W, 3) BGR to people's boxes (N, 4)."""


class BoxError(ValueError):
    """A box or a tracks file that cannot be used."""


class Boxes:
    """Says where people are in each frame of one video.

    Attributes:
        capacity: people at a time.
    """

    capacity = 1

    def begin(self, size: tuple[int, int]) -> None:
        """Checks what is known beforehand against the frame's (width, height).

        Raises:
            BoxError: for a box that lies outside of the frame.
        """

    def find(self, index: int, image: NDArray[np.uint8]) -> dict[Hashable, Box]:
        """Track id -> box, in this frame (H, W, 3) BGR."""
        raise NotImplementedError

    def saw(self, poses: Mapping[Hashable, tuple[NDArray[Any], NDArray[Any]]]) -> None:
        """Takes the poses found in the frame: keypoints (K, 2) and scores (K,) by track id."""


class WholeFrame(Boxes):
    """One person, somewhere in the frame."""

    def find(self, index: int, image: NDArray[np.uint8]) -> dict[Hashable, Box]:
        return {0: np.array([0, 0, image.shape[1], image.shape[0]], np.float32)}


class FirstBox(Boxes):
    """One person whose box in the first frame is given; from then on the box follows the pose.

    Args:
        bbox: x, y, width, height in pixels.
        follow: False keeps the box where it is.

    Raises:
        BoxError: for a box without area.
    """

    def __init__(self, bbox: tuple[float, float, float, float], follow: bool = True) -> None:
        x, y, width, height = map(float, bbox)
        self._given = _box(x, y, width, height, "the box")
        self._box = self._given
        self._follow = follow
        self._size = (0, 0)

    def begin(self, size: tuple[int, int]) -> None:
        _check_inside(self._given, size, "the box")
        self._box, self._size = self._given, size

    def find(self, index: int, image: NDArray[np.uint8]) -> dict[Hashable, Box]:
        return {0: self._box}

    def saw(self, poses: Mapping[Hashable, tuple[NDArray[Any], NDArray[Any]]]) -> None:
        if self._follow and 0 in poses:
            self._box = follow_pose(self._box, *poses[0], self._size)


class Tracks(Boxes):
    """Boxes from a tracker's file in the format of MOTChallenge.

    A line for each box: ``frame,id,x,y,width,height`` (more columns are ignored), frames from 1,
    x and y of the box's upper left corner in pixels. Lines may be in any order; empty lines and
    lines that begin with # are skipped.

    Args:
        path: the file.

    Raises:
        BoxError: no such file, a line of another form, a box without area, a track twice in a
            frame, no box at all; with the line's number.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise BoxError(f"{path}: no such tracks file")
        self._frames: dict[int, dict[Hashable, Box]] = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            where = f"{path}, line {number}"
            try:
                frame, track, *corner = (float(word) for word in line.split(",")[:6])
                x, y, width, height = corner
                if frame != int(frame) or frame < 1 or track != int(track):
                    raise ValueError
            except ValueError:
                raise BoxError(
                    f"{where}: expected frame,id,x,y,width,height with frames from 1, found "
                    f"{line.strip()[:80]!r}"
                ) from None
            boxes = self._frames.setdefault(int(frame) - 1, {})
            if int(track) in boxes:
                raise BoxError(f"{where}: track {int(track)} is in frame {int(frame)} twice")
            boxes[int(track)] = _box(x, y, width, height, where)
        if not self._frames:
            raise BoxError(f"{path}: no boxes there")
        self.capacity = max(map(len, self._frames.values()))

    def begin(self, size: tuple[int, int]) -> None:
        for index, boxes in sorted(self._frames.items()):
            for track, box in boxes.items():
                _check_inside(box, size, f"{self.path}: track {track} in frame {index + 1}")

    def find(self, index: int, image: NDArray[np.uint8]) -> dict[Hashable, Box]:
        return self._frames.get(index, {})


class Detected(Boxes):
    """People that a detector finds; between its frames boxes follow the poses.

    Args:
        detector: boxes of people in a frame.
        capacity: people at a time; the largest ones.
        every: frames from one detection to the next.
        min_iou: overlap from which on a detection is a person who was there before.
    """

    def __init__(
        self, detector: Detector, capacity: int = 4, every: int = 10, min_iou: float = 0.3
    ) -> None:
        self._detector, self.capacity = detector, capacity
        self._every, self._min_iou = every, min_iou
        self._boxes: dict[Hashable, Box] = {}
        self._tracks = 0
        self._size = (0, 0)

    def begin(self, size: tuple[int, int]) -> None:
        self._boxes, self._tracks, self._size = {}, 0, size

    def find(self, index: int, image: NDArray[np.uint8]) -> dict[Hashable, Box]:
        if index % self._every == 0:
            found = np.asarray(self._detector(image), np.float32).reshape(-1, 4)
            area = np.prod(found[:, 2:] - found[:, :2], axis=1)
            self._link(found[np.argsort(-area)[: self.capacity]])
        return dict(self._boxes)

    def _link(self, found: NDArray[np.float32]) -> None:
        """Gives detections the tracks of the boxes that they overlap most, or new ones."""
        before, self._boxes = self._boxes, {}
        for box in found:
            overlap = {t: float(iou(box[None], b[None])[0, 0]) for t, b in before.items()}
            track: Hashable = max(overlap, key=overlap.__getitem__, default=None)
            if track is None or overlap[track] < self._min_iou:
                track, self._tracks = self._tracks, self._tracks + 1
            else:
                del before[track]
            self._boxes[track] = box

    def saw(self, poses: Mapping[Hashable, tuple[NDArray[Any], NDArray[Any]]]) -> None:
        for track, (keypoints, scores) in poses.items():
            if track in self._boxes:
                box = follow_pose(self._boxes[track], keypoints, scores, self._size)
                self._boxes[track] = box


def follow_pose(
    box: Box,
    keypoints: NDArray[Any],
    scores: NDArray[Any],
    size: tuple[int, int],
    threshold: float = 0.3,
    margin: float = 0.15,
) -> Box:
    """The box of a pose, a little larger than its joints; the old one while the pose is unsure.

    Args:
        box: (4,), before.
        keypoints: (K, 2) in pixels.
        scores: (K,).
        size: (width, height) of the frame, which clips the box.
        threshold: of the scores.
        margin: by which the box exceeds the joints on each side, as a share of their extent.
    """
    seen = keypoints[scores >= threshold]
    if 2 * len(seen) < len(keypoints):
        return box
    low, high = seen.min(0), seen.max(0)
    extent = (high - low) * margin
    new = np.concatenate([low - extent, high + extent]).astype(np.float32)
    new = new.clip(0, np.tile(np.array(size, np.float32), 2))
    # Joints in a heap: the pose was lost.
    return new if (new[2:] - new[:2] >= 0.25 * (box[2:] - box[:2])).all() else box


def person_detector(device: str = "cpu", allow_checkpoint_code: bool = False) -> Detector:
    """mmpose's own detector of people, which mmdet runs; it fetches its weights once.

    Args:
        device: where it runs.
        allow_checkpoint_code: see :func:`skippose.checkpoints.load_checkpoint`.

    Raises:
        BoxError: if mmdet is not installed.
        CheckpointError: if what it fetches asks for more than weights.
    """
    if find_spec("mmdet") is None:
        raise BoxError(
            "where is the person? There is no mmdet here to find people with: give a box in the "
            "first frame (--bbox X Y WIDTH HEIGHT), a tracker's file (--tracks FILE), or say that "
            "the person fills the frame (--whole-frame); in Python bbox=, tracks=, whole_frame="
        )
    from mmdet.apis import DetInferencer
    from mmpose.apis.inferencers.utils import default_det_models

    model = default_det_models["human"]
    with checkpoints_run_no_code(allow_checkpoint_code):
        inferencer = DetInferencer(
            model["model"], model["weights"], device=device, show_progress=False
        )

    def detect(image: NDArray[np.uint8]) -> NDArray[np.floating]:
        (found,) = inferencer(image, return_datasamples=True)["predictions"]
        people = found.pred_instances.cpu().numpy()
        chosen = np.isin(people.labels, model["cat_ids"]) & (people.scores > 0.5)
        return people.bboxes[chosen]

    return detect


def _box(x: float, y: float, width: float, height: float, what: str) -> Box:
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
        raise BoxError(f"{what}: width and height must be above 0, found {width:g} x {height:g}")
    return np.array([x, y, x + width, y + height], np.float32)


def _check_inside(box: Box, size: tuple[int, int], what: str) -> None:
    """Part of a box may lie outside of the frame, not all of it."""
    if (box[:2] >= size).any() or (box[2:] <= 0).any():
        x1, y1, x2, y2 = box.tolist()
        raise BoxError(
            f"{what}: x {x1:g} to {x2:g}, y {y1:g} to {y2:g} lies outside of the frame of "
            f"{size[0]}x{size[1]} pixels"
        )
