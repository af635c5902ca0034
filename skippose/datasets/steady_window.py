"""A crop window that stays on the background while the camera moves.

A camera that pans moves every pixel of a window that stays put. Here the window follows the
background instead, by whole pixels of the image: a shift by a whole number samples the background
at the same positions as before, so that its pixels in the crop are the same ones again, up to the
fraction of a pixel that the camera really moved beside (at most half a pixel, whatever the length
of the video, for the fractions are carried on). What enters at the image's border is new, and is
computed as any other change.

Following the background is wrong where the person stays in the picture and the background runs
through: the window would lose the person again and again, and be placed anew each time. So both
windows are kept, with and without the shifts; what each would have had to compute is measured on
its own crops, and the one that has to compute less is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .crop_windows import HysteresisWindow

_IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


class CameraMotion:
    """Estimates how the background moves from frame to frame.

    Corners outside the people's boxes are followed by pyramidal Lucas-Kanade flow, and a similarity
    is fitted to them by RANSAC (OpenCV). Causal.

    Args:
        corners: Corners that are followed at most.
        min_inliers: With fewer that agree, the camera counts as still.
    """

    def __init__(self, corners: int = 400, min_inliers: int = 12) -> None:
        if corners < min_inliers or min_inliers < 3:
            raise ValueError(
                "min_inliers must be at least 3 and at most corners, found "
                f"min_inliers={min_inliers}, corners={corners}"
            )
        self.corners = corners
        self.min_inliers = min_inliers
        self.reset()

    def reset(self) -> None:
        """Forgets the video."""
        self._grey: np.ndarray | None = None
        self._boxes: Sequence[np.ndarray] = ()

    def update(self, image: np.ndarray, boxes: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Returns the affine map (2, 3) of the background from the last frame's pixels to this one.

        The identity for the first frame, and where too little of the background can be followed.

        Args:
            image: (H, W, 3) or (H, W), uint8.
            boxes: The people's boxes (4,), which are no background.
        """
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        before, hidden = self._grey, self._boxes
        self._grey, self._boxes = grey, list(boxes)
        if before is None or before.shape != grey.shape:
            return _IDENTITY.copy()
        mask = np.full(grey.shape, 255, np.uint8)
        for x1, y1, x2, y2 in hidden:
            mask[max(0, int(y1)) : max(0, int(y2) + 1), max(0, int(x1)) : max(0, int(x2) + 1)] = 0
        points = cv2.goodFeaturesToTrack(before, self.corners, 0.01, 7, mask=mask)
        if points is None or len(points) < self.min_inliers:
            return _IDENTITY.copy()
        found, status, _ = cv2.calcOpticalFlowPyrLK(before, grey, points, points.copy())
        good = status.ravel() == 1
        if good.sum() < self.min_inliers:
            return _IDENTITY.copy()
        matrix, inliers = cv2.estimateAffinePartial2D(
            points[good], found[good], method=cv2.RANSAC, ransacReprojThreshold=1.0
        )
        if matrix is None or inliers.sum() < self.min_inliers or not np.isfinite(matrix).all():
            return _IDENTITY.copy()
        return matrix


class SteadyWindow:
    """A `HysteresisWindow` that follows the background where that leaves less to compute.

    Two windows run side by side, one with and one without the camera's shifts. Each has a probe: a
    small grey copy of its own crop, of which a cell counts as changed when it differs from what it
    was when it last counted by more than ``eps`` of the crop's mean contrast, as the cells of a
    gated first layer do. A window that is placed anew changes all cells. The windows' densities are
    smoothed over about ten frames, and

    - while both windows are the same, the one with the lower density in this frame is taken, which
      costs nothing;
    - later the shifted one is left when its density is the higher one, and taken when it is below
      ``gain`` times the other's; a change between the two is a new crop, a dense frame;
    - whenever the window in use is placed anew, so is the other.

    Causal. `placed` says after each update whether the crop is a new one, so that a stream's slot
    is to be reset.

    Args:
        window: The hysteresis, with its settings.
        eps: Change of a cell that counts, relative to the crop's mean contrast.
        gain: Share of the density without shifts below which the shifted window is taken.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, window: HysteresisWindow, eps: float = 0.1, gain: float = 0.8) -> None:
        if eps < 0:
            raise ValueError(f"eps must be at least 0, found {eps}")
        if not 0 < gain <= 1:
            raise ValueError(f"gain must be above 0 and at most 1, found {gain}")
        self._window = window
        self.eps = eps
        self.gain = gain
        self.reset()

    def reset(self) -> None:
        """Forgets the video; the next box is a first one."""
        self._still = _Candidate(self._window.copy(), self.eps)
        self._moving = _Candidate(self._window.copy(), self.eps)
        self._carry = np.zeros(2)
        self.following = False
        self.placed = True

    @property
    def densities(self) -> tuple[float, float]:
        """Smoothed shares of changed cells: without the shifts, and with them."""
        return self._still.density, self._moving.density

    def update(self, bbox: np.ndarray, image: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """Returns the window (4,) for the next frame.

        Args:
            bbox: the person's box (4,) in this frame.
            image: (H, W, 3) or (H, W), uint8.
            motion: The background's affine map (2, 3) from the last frame's pixels to this one's.

        Raises:
            ValueError: the box is not finite or has no area.
        """
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        together = self._still.same_as(self._moving)
        held = self._moving.held
        if held is not None:
            centre = np.append((held[:2] + held[2:]) / 2, 1.0)
            self._carry += motion @ centre - centre[:2]
            whole = np.round(self._carry)
            self._carry -= whole
            self._moving.window.shift(whole)
        still = self._still.step(bbox, grey)
        moving = self._moving.step(bbox, grey)
        before = self.following
        if together:
            self.following = moving < self.gain * still
        elif self.following:
            self.following = self._moving.density <= self._still.density
        else:
            self.following = self._moving.density < self.gain * self._still.density
        used = self._moving if self.following else self._still
        self.placed = used.window.placed or (self.following != before and not together)
        if self.placed:
            used.place(bbox, grey)
            other = self._still if self.following else self._moving
            other.place(bbox, grey)
            self._carry[:] = 0
        assert used.held is not None
        return used.held.copy()


class _Candidate:
    """One of the two windows, and what it would have had to compute."""

    def __init__(self, window: HysteresisWindow, eps: float) -> None:
        self.window = window
        self._eps = eps
        self._seen: np.ndarray | None = None
        self._sum = self._weight = 0.0

    @property
    def held(self) -> np.ndarray | None:
        return self.window.held

    @property
    def density(self) -> float:
        return self._sum / self._weight if self._weight else 1.0

    def same_as(self, other: _Candidate) -> bool:
        if self.held is None or other.held is None:
            return True
        return np.array_equal(self.held, other.held)

    def step(self, bbox: np.ndarray, grey: np.ndarray) -> float:
        """Moves the window to this frame; returns the share of the crop's cells that changed."""
        self.window.update(bbox)
        crop = self._crop(grey)
        changed = np.ones(crop.shape[:2], bool)
        if self._seen is not None and not self.window.placed:
            limit = self._eps * max(float(np.abs(crop - crop.mean()).mean()), 1.0)
            changed = np.abs(crop - self._seen).mean(axis=2) > limit
            crop = np.where(changed[..., None], crop, self._seen)
        self._seen = crop
        density = float(changed.mean())
        self._sum, self._weight = 0.9 * self._sum + density, 0.9 * self._weight + 1
        return density

    def place(self, bbox: np.ndarray, grey: np.ndarray) -> None:
        """Begins anew around the box; the density is kept."""
        self.window.reset()
        self.window.update(bbox)
        self._seen = self._crop(grey)

    def _crop(self, grey: np.ndarray) -> np.ndarray:
        """The crop's cells (rows, columns, 64) of 8x8 pixels, about 96 pixels high."""
        held = self.window.held
        assert held is not None
        size = self.window.crop_size(held)
        rows = 12
        columns = max(1, round(rows * float(size[0] / size[1])))
        scale = np.array([columns * 8, rows * 8]) / size
        corner = (held[:2] + held[2:]) / 2 - size / 2
        matrix = np.array(
            [[scale[0], 0, -corner[0] * scale[0]], [0, scale[1], -corner[1] * scale[1]]]
        )
        crop = cv2.warpAffine(grey, matrix, (columns * 8, rows * 8)).astype(np.float32)
        return crop.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3).reshape(rows, columns, 64)


def steady_windows(
    images: Sequence[np.ndarray], boxes: np.ndarray, window: HysteresisWindow
) -> np.ndarray:
    """The windows (T, 4) of a clip's images (H, W) or (H, W, 3) and boxes (T, 4)."""
    camera, steady = CameraMotion(), SteadyWindow(window)
    return np.stack(
        [
            steady.update(box, image, camera.update(image, [box]))
            for image, box in zip(images, boxes, strict=True)
        ]
    )
