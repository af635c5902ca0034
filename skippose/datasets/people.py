"""Many people in one video through one stream: each has a slot, and a window that stays put."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from mmpose.structures.bbox import get_warp_matrix
from torch import Tensor

from skippose.report import Report
from skippose.slots import SlotManager

from .camera_motion import CameraMotion
from .crop_windows import HysteresisWindow, check_box
from .steady_window import SteadyWindow


class FrameStream(Protocol):
    """What of `skippose.Stream` is used."""

    def __call__(self, frame: Tensor) -> Any:
        """The network's output for (S, 3, H, W)."""

    def reset(self, slots: Any = None) -> None:
        """Begins anew in these slots."""

    def report(self) -> Report:
        """The costs so far."""


@dataclass(frozen=True)
class Person:
    """One person in one frame.

    Attributes:
        slot: Where in the stream.
        output: The network's output of that slot, with a first dimension of 1.
        window: (4,) the crop window ``x1, y1, x2, y2``, unpadded, in the image's pixels.
        matrix: (2, 3) from the image's pixels to the crop's.
        fresh: Whether the slot was computed in full: a birth, or a window placed anew.
    """

    slot: int
    output: Any
    window: np.ndarray
    matrix: np.ndarray
    fresh: bool

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points (K, 2) of the crop in the image's pixels."""
        inverse = cv2.invertAffineTransform(self.matrix)
        return points @ inverse[:, :2].T + inverse[:, 2]


class PeopleStream:
    """Runs a stream over the people of a video, as a tracker gives them.

    A person has a slot (`SlotManager`: births, gaps, deaths) and a crop window with hysteresis. A
    slot is reset when it gets another person or its window is placed anew, and no other slot is. A
    slot without a person in the frame sees its last crop again, in which nothing changes: it costs
    nothing, and its person can come back. A slot that nobody ever had sees black.

    Args:
        stream: `skippose.Stream` of a network, or anything alike; its slots are used by nothing
            else.
        input_size: (width, height) of the network's input in pixels.
        capacity: People at a time; further ones are left out until a slot is free.
        patience: Frames for which a person who is not seen keeps the slot.
        padding: By how much a window is enlarged to the crop, as in ``GetBBoxCenterScale``.
        crop_cfg: ``margin`` and ``shrink`` of `HysteresisWindow`.
        stabilise: Whether windows may follow a moving background, see `SteadyWindow`.
        mean: Of the network's input, RGB.
        std: Of the network's input, RGB.
        device: Where the network is.
    """

    def __init__(
        self,
        stream: FrameStream,
        input_size: tuple[int, int],
        capacity: int,
        patience: int = 8,
        padding: float = 1.25,
        crop_cfg: dict | None = None,
        stabilise: bool = False,
        mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        std: tuple[float, float, float] = (58.395, 57.12, 57.375),
        device: str | torch.device = "cpu",
    ) -> None:
        self.stream = stream
        self.slots = SlotManager(capacity, patience)
        self.input_size = input_size
        self.person_frames = 0
        width, height = input_size
        self._hysteresis = HysteresisWindow(width / height, padding, **(crop_cfg or {}))
        self._windows: dict[int, HysteresisWindow | SteadyWindow] = {}
        self._stabilise = stabilise
        self._camera = CameraMotion()
        crops = (capacity, 3, height, width)
        self._crops = torch.zeros(crops, dtype=torch.float32, device=device)
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in (mean, std)
        )
        self._size: tuple[int, int] | None = None

    def reset(self) -> None:
        """Begins a new video; the report goes on."""
        self.slots.reset()
        self._windows.clear()
        self._camera.reset()
        self._crops.zero_()
        self._size = None
        self.stream.reset()

    def __call__(
        self, image: np.ndarray, boxes: Mapping[Hashable, np.ndarray]
    ) -> dict[Hashable, Person]:
        """Takes a frame and its people; returns those who have a slot.

        Args:
            image: (H, W, 3) BGR, uint8.
            boxes: Track id -> box (4,) ``x1, y1, x2, y2`` in pixels. May be empty.

        Raises:
            ValueError: An image of another kind or size than before, or a box without area; nothing
                has changed then.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an image must be uint8 (H, W, 3), found {image.dtype} {image.shape}")
        if self._size not in (None, image.shape[:2]):
            raise ValueError(
                f"the image has (height, width) {image.shape[:2]}, those before {self._size}; call "
                "reset() before another video"
            )
        checked = {track: _check(track, box) for track, box in boxes.items()}
        self._size = image.shape[:2]
        seats = self.slots.update(checked)
        for slot in seats.born:
            self._windows[slot] = self._new_window()
        if self._stabilise:
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            motion = self._camera.update(grey, list(checked.values()))
        fresh, placed = set(seats.born), {}
        for track, slot in seats.slot.items():
            window = self._windows[slot]
            if isinstance(window, SteadyWindow):
                held = window.update(checked[track], grey, motion)
            else:
                held = window.update(checked[track])
            if window.placed:
                fresh.add(slot)
            matrix = self._matrix(held)
            crop = cv2.warpAffine(image, matrix, self.input_size, flags=cv2.INTER_LINEAR)
            self._crops[slot] = torch.from_numpy(crop[..., ::-1].copy()).permute(2, 0, 1)
            placed[track] = (slot, held, matrix)
        if fresh:
            self._reset(sorted(fresh))
        outputs = self.stream((self._crops - self._mean) / self._std)
        self.person_frames += len(placed)
        return {
            track: Person(slot, _select(outputs, slot), held, matrix, slot in fresh)
            for track, (slot, held, matrix) in placed.items()
        }

    def _new_window(self) -> HysteresisWindow | SteadyWindow:
        window = self._hysteresis.copy()
        return SteadyWindow(window) if self._stabilise else window

    def _reset(self, slots: list[int]) -> None:
        if getattr(self.stream, "slots", None) is not None:  # a stream has none before a frame
            self.stream.reset(slots=slots)

    def _matrix(self, window: np.ndarray) -> np.ndarray:
        """The crop of a window, as `GetBBoxCenterScale` and `TopdownAffine` make it."""
        centre = (window[:2] + window[2:]) / 2
        return get_warp_matrix(
            centre, self._hysteresis.crop_size(window), 0.0, output_size=self.input_size
        )

    def gmacs_per_person(self) -> float:
        """GMACs per person-frame, everything counted: dense frames, resets, empty slots."""
        report = self.stream.report()
        gated = report.gmacs * report.frames if report.frames else 0.0
        return (gated + report.first_frames * report.first_gmacs) / max(self.person_frames, 1)


def _check(track: Hashable, box: np.ndarray) -> np.ndarray:
    """A box (4,) that a window can be placed on.

    Raises:
        ValueError: Names the track.
    """
    try:
        return check_box(box)
    except ValueError as error:
        raise ValueError(f"track {track!r}: {error}") from error


def _select(outputs: Any, slot: int) -> Any:
    """One slot's part of a network's output, a tensor or tuples of them."""
    if isinstance(outputs, Tensor):
        return outputs[slot : slot + 1]
    return tuple(_select(part, slot) for part in outputs)
