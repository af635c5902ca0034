"""A video frame with poses, what was computed, and what it cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from skippose.visualization.overlay import COMPUTED, PEOPLE, draw_pose

if TYPE_CHECKING:
    from skippose.video.pose import PoseFrame

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

LEAST = 480
"""Pixels of the picture's shorter side; smaller videos are enlarged by a whole number."""
PANEL = 84
_INK, _PAPER, _FAINT = (235, 235, 235), (32, 32, 32), (110, 110, 110)
_CUT: Colour = (0, 94, 213)  # vermilion, BGR


class FramePainter:
    """Draws frame after frame of one video; keeps no more than its meter shows.

    A panel below the frame has the network's MACs and time, and the MACs of the last frames as
    bars, those in which somebody was computed in full in vermilion.

    Args:
        links: pairs of joints that are joined.
        threshold: joints with a lower score are left out.
        history: bars of the meter.
        tint: how strongly what was computed is tinted; 0 not at all.
    """

    def __init__(
        self,
        links: Sequence[Sequence[int]] = (),
        threshold: float = 0.3,
        history: int = 120,
        tint: float = 0.55,
    ) -> None:
        self.links = links
        self.threshold = threshold
        self.tint = tint
        self._history: deque[tuple[float, bool]] = deque(maxlen=history)

    def draw(self, frame: PoseFrame) -> Image:
        """The picture (H', W', 3) BGR of a frame; frames come in order, each once."""
        image = frame.image.copy()
        for person in frame.people.values():
            if person.cost is not None and self.tint:
                _tint(image, person.cost, person.matrix, self.tint)
        factor = max(1, ceil(LEAST / min(image.shape[:2])))
        if factor > 1:
            image = cv2.resize(  # type: ignore[assignment]
                image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR
            )
        for n, (track, person) in enumerate(frame.people.items()):
            index = track if isinstance(track, int) else n
            colour = PEOPLE[index % len(PEOPLE)][::-1]
            corners = np.rint(person.corners * factor).astype(np.int32)
            cv2.polylines(image, [corners[:, None]], True, colour, 1, cv2.LINE_AA)
            # The centre of pixel x is at (x + 1/2) · factor - 1/2 in the enlarged picture.
            points = person.keypoints * factor + (factor - 1) / 2
            draw_pose(image, points, person.scores, self.links, colour, self.threshold)
            if len(frame.people) > 1:
                x, y = np.clip(corners[0], 0, None).tolist()
                _write(image, str(track), int(x) + 5, int(y) + 17, 0.5, colour)
        self._history.append((frame.share, frame.fresh))
        return np.vstack([image, self._panel(frame, image.shape[1])])

    def _panel(self, frame: PoseFrame, width: int) -> Image:
        panel = np.full((PANEL, width, 3), _PAPER, np.uint8)
        share = f"{frame.share:.0%}" if frame.dense_gmacs else "-"
        people = f"{len(frame.people)} " + ("person" if len(frame.people) == 1 else "people")
        _write(panel, f"{frame.gmacs:.3f} GMACs, {share} of dense", 10, 22, 0.5)
        _write(panel, f"network {1000 * frame.seconds:.0f} ms", 10, 44, 0.5)
        _write(panel, f"frame {frame.index}, {people}", 10, 66, 0.42, _FAINT)
        left, right = min(260, width // 2), width - 10
        top, bottom = 18, PANEL - 22
        cv2.line(panel, (left, top), (right, top), _FAINT, 1)
        _write(panel, "dense", left, top - 5, 0.35, _FAINT)
        assert self._history.maxlen is not None
        step = (right - left) / self._history.maxlen
        for n, (value, fresh) in enumerate(reversed(self._history)):
            x = right - (n + 1) * step
            height = round(min(value, 1.1) * (bottom - top))
            if height:
                cv2.rectangle(
                    panel,
                    (round(x), bottom - height),
                    (max(round(x), round(x + step) - 1), bottom),
                    _CUT if fresh else COMPUTED[::-1],
                    -1,
                )
        cv2.line(panel, (left, bottom + 1), (right, bottom + 1), _FAINT, 1)
        x = _swatch(panel, "computed", COMPUTED[::-1], left)
        _swatch(panel, "in full", _CUT, x)
        return panel


def _tint(
    image: Image, cost: NDArray[np.float32], matrix: NDArray[np.floating], alpha: float
) -> None:
    """Tints an image (H, W, 3) in place by a share (h, w) of 0 to 1 on a crop of it."""
    inverse = cv2.invertAffineTransform(matrix)
    height, width = cost.shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    reach = corners @ inverse[:, :2].T + inverse[:, 2]
    limits = image.shape[1], image.shape[0]
    x0, y0 = np.clip(np.floor(reach.min(0)).astype(int), 0, limits).tolist()
    x1, y1 = np.clip(np.ceil(reach.max(0)).astype(int), 0, limits).tolist()
    if x0 >= x1 or y0 >= y1:
        return
    part = image[y0:y1, x0:x1]
    here = matrix.astype(np.float64).copy()
    here[:, 2] += here[:, :2] @ (x0, y0)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    weight = alpha * cv2.warpAffine(cost, here, (x1 - x0, y1 - y0), flags=flags)
    colour = np.full_like(part, COMPUTED[::-1])
    part[:] = cv2.blendLinear(part, colour, (1 - weight).astype(np.float32), weight)


def _write(image: Image, text: str, x: int, y: int, size: float, colour: Colour = _INK) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def _swatch(image: Image, name: str, colour: Colour, x: int) -> int:
    y = PANEL - 7
    cv2.rectangle(image, (x, y - 8), (x + 8, y), colour, -1)
    _write(image, name, x + 13, y, 0.38, _FAINT)
    return x + 13 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.38, 1)[0][0] + 14
