"""Where to crop a person in each frame of a video.

A crop that follows the person's box exactly (what a top-down data set does for single images)
shifts every pixel of every frame, and the residual between two frames is then the shift, not what
happened. A window that stays put keeps a still background still.

Boxes and windows are ``x1, y1, x2, y2`` in pixels, ``float32``. A window is the *unpadded* box
that the pipeline then pads (``GetBBoxCenterScale(padding=1.25)``) and widens to the network's
aspect ratio (``TopdownAffine``); what is finally seen is called the crop here.

``hysteresis`` (default), ``first`` and ``frame`` are causal: the window of frame t depends on the
boxes up to t alone, so a live stream can use the same objects, one ``update(bbox)`` per frame.
``union`` covers the whole clip and needs its future: it is for offline use only.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

CROP_MODES = ("hysteresis", "union", "first", "frame")


class CropWindow(Protocol):
    """Gives the window of each next frame; one object per person and video."""

    def update(self, bbox: np.ndarray) -> np.ndarray:
        """Return the window (4,) for the frame whose person has the box ``bbox`` (4,)."""

    def reset(self) -> None:
        """Forget the video; the next box is a first one."""


class HysteresisWindow:
    """A window that moves only when the person's box leaves an inner margin of the crop.

    The window is placed on a box as a top-down data set would do it, and stays there, bit for bit,
    while the following boxes stay within the crop, less ``margin`` of the border that the padding
    has put around the placed box. When one does not, or when the person has become so small that
    a new crop would be less than ``shrink`` times as wide as this one, the window is placed anew on
    that frame's box.

    Args:
        aspect_ratio: width / height of the network's input.
        padding: by how much the pipeline enlarges a window to the crop.
        margin: share of the padded border that the box may not enter: 0 lets the box reach the edge
            of the crop, 1 moves the window with every change of the box's longer side. With a
            padding of 1.25 the border is 10% of the crop on each side, and the default leaves a
            newly placed box 8% of the crop to move in every direction.
        shrink: smallest ratio of the crop needed to the crop held; 0 never shrinks.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        aspect_ratio: float = 1.0,
        padding: float = 1.25,
        margin: float = 0.2,
        shrink: float = 0.6,
    ) -> None:
        if not aspect_ratio > 0:
            raise ValueError(f"aspect_ratio must be positive, found {aspect_ratio}")
        if not padding >= 1:
            raise ValueError(f"padding must be at least 1, found {padding}")
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must lie between 0 and 1, found {margin}")
        if not 0 <= shrink < 1:
            raise ValueError(f"shrink must be at least 0 and below 1, found {shrink}")
        self.aspect_ratio = aspect_ratio
        self.padding = padding
        self.margin = margin
        self.shrink = shrink
        self._window: np.ndarray | None = None
        self.placed = False  # whether the last update has placed the window anew

    def copy(self) -> HysteresisWindow:
        """Another one with the same settings, which has seen nothing."""
        return type(self)(self.aspect_ratio, self.padding, self.margin, self.shrink)

    @property
    def held(self) -> np.ndarray | None:
        """The window (4,) as it is held; None before the first box."""
        return self._window

    def reset(self) -> None:
        """Forget the video; the next box is a first one."""
        self._window = None

    def shift(self, by: np.ndarray) -> None:
        """Move the window that is held by ``by`` (2,) pixels."""
        if self._window is not None:
            self._window = self._window + np.tile(by, 2).astype(np.float32)

    def update(self, bbox: np.ndarray) -> np.ndarray:
        """Return the window (4,) for the next frame.

        Args:
            bbox: the person's box (4,) in this frame.

        Raises:
            ValueError: the box is not finite or has no area.
        """
        bbox = check_box(bbox)
        self.placed = self._window is None or not self.fits(bbox, self._window)
        if self.placed:
            self._window = bbox
        assert self._window is not None
        return self._window.copy()

    def crop_size(self, window: np.ndarray) -> np.ndarray:
        """Width and height (2,) of the crop that the pipeline makes of a window."""
        width, height = window[2:] - window[:2]
        size = np.array(
            [max(width, height * self.aspect_ratio), max(height, width / self.aspect_ratio)]
        )
        return size * self.padding

    def fits(self, bbox: np.ndarray, window: np.ndarray) -> bool:
        """Whether a person's box (4,) leaves a window (4,) where it is."""
        size = self.crop_size(window)
        centre = (window[:2] + window[2:]) / 2
        border = (1 - 1 / self.padding) / 2
        # A thousandth of a pixel: a box on the line is inside whatever the rounding.
        reach = size * (0.5 - self.margin * border) + 1e-3
        inside = (bbox[:2] >= centre - reach).all() and (bbox[2:] <= centre + reach).all()
        return bool(inside and self.crop_size(bbox)[0] >= self.shrink * size[0])


class FirstWindow:
    """The window of the first frame, for ever: only right where the person stays in it."""

    def __init__(self) -> None:
        self._window: np.ndarray | None = None

    def reset(self) -> None:
        """Forget the video; the next box is a first one."""
        self._window = None

    def update(self, bbox: np.ndarray) -> np.ndarray:
        """Return the first frame's box (4,)."""
        if self._window is None:
            self._window = check_box(bbox)
        return self._window.copy()


class FrameWindow:
    """Each frame's own box: a top-down data set's way, which destroys the residual."""

    def reset(self) -> None:
        """There is nothing to forget."""

    def update(self, bbox: np.ndarray) -> np.ndarray:
        """Return ``bbox`` (4,) itself."""
        return check_box(bbox)


def check_box(bbox: np.ndarray) -> np.ndarray:
    """Return a copy of a box as float32 (4,).

    Raises:
        ValueError: another shape, a number that is not finite, or no area.
    """
    box = np.array(bbox, dtype=np.float32)
    if box.shape != (4,):
        raise ValueError(f"a box must have the shape (4,), found {box.shape}")
    if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise ValueError(f"a box must be finite with x2 > x1 and y2 > y1, found {box.tolist()}")
    return box


def build_crop_window(
    mode: str,
    aspect_ratio: float = 1.0,
    padding: float = 1.25,
    margin: float = 0.2,
    shrink: float = 0.6,
) -> CropWindow:
    """Build a causal crop window; for the arguments see `HysteresisWindow`.

    Raises:
        ValueError: an unknown mode, or ``union``, which needs the whole clip.
    """
    if mode == "hysteresis":
        return HysteresisWindow(aspect_ratio, padding, margin, shrink)
    if mode == "first":
        return FirstWindow()
    if mode == "frame":
        return FrameWindow()
    if mode == "union":
        raise ValueError("crop='union' needs the whole clip: use clip_windows; it is not causal")
    raise ValueError(f"crop must be one of {CROP_MODES}, found {mode!r}")


def clip_windows(mode: str, boxes: np.ndarray, **kwargs: float) -> np.ndarray:
    """Return the windows (T, 4) of a clip's boxes (T, 4).

    Args:
        mode: one of `CROP_MODES`.
        boxes: the person's box in each frame.
        **kwargs: passed to `build_crop_window`.

    Raises:
        ValueError: an unknown mode, or a box without area.
    """
    if mode == "union":
        checked = np.stack([check_box(box) for box in boxes])
        union = np.concatenate([checked[:, :2].min(axis=0), checked[:, 2:].max(axis=0)])
        return np.repeat(union[None], len(checked), axis=0)
    window = build_crop_window(mode, **kwargs)
    return np.stack([window.update(box) for box in boxes])
