"""How the background moves from frame to frame, seen by a camera that moves."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_STILL = np.array([[1.0, 0, 0], [0, 1, 0]])


class CameraMotion:
    """Estimates how the background moves from frame to frame.

    Corners of a *key frame*, outside the people's boxes there, are followed into each new frame by
    pyramidal Lucas-Kanade flow, and a similarity is fitted to them by RANSAC (OpenCV). What moved
    since the last frame is the difference of two such fits. So errors do not add up as long as a
    key frame serves; from one frame to the next they would: noise that stays where it is in the
    picture draws a slow flow towards zero in every frame (a pan of 1 pixel came out as 0.85). A key
    frame serves until fewer than ``keep`` of its corners are left. Causal.

    Args:
        corners: Corners that are followed at most.
        min_inliers: With fewer that agree, the camera counts as still.
        keep: Share of the corners that agreed at first, below which the last frame becomes the key
            frame.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(self, corners: int = 400, min_inliers: int = 12, keep: float = 0.6) -> None:
        if corners < min_inliers or min_inliers < 3:
            raise ValueError(
                "min_inliers must be at least 3 and at most corners, found "
                f"min_inliers={min_inliers}, corners={corners}"
            )
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must lie between 0 and 1, found {keep}")
        self.corners = corners
        self.min_inliers = min_inliers
        self.keep = keep
        self.reset()

    def reset(self) -> None:
        """Forgets the video."""
        self._key: np.ndarray | None = None
        self._points: np.ndarray | None = None  # (N, 1, 2) corners of the key frame
        self._pose = _STILL  # from the key frame's pixels to the last frame's
        self._agreed: int | None = None  # corners in the first fit of this key frame
        self._last: tuple[np.ndarray, list[np.ndarray]] | None = None

    def update(self, image: np.ndarray, boxes: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Returns the affine map (2, 3) of the background from the last frame's pixels to this one.

        The identity for the first frame, and where too little of the background can be followed.

        Args:
            image: (H, W, 3) or (H, W), uint8.
            boxes: The people's boxes (4,), which are no background.
        """
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        last, self._last = self._last, (grey, list(boxes))
        if last is None or last[0].shape != grey.shape:
            self._begin(*self._last)
            return _STILL.copy()
        found = self._follow(grey)
        if found is None or (self._agreed and found[1] < self.keep * self._agreed):
            self._begin(*last)
            found = self._follow(grey)
        if found is None:
            self._begin(*self._last)
            return _STILL.copy()
        before, (self._pose, inliers) = self._pose, found
        self._agreed = self._agreed or inliers
        back = cv2.invertAffineTransform(before)
        linear = self._pose[:, :2] @ back[:, :2]
        return np.column_stack([linear, self._pose[:, :2] @ back[:, 2] + self._pose[:, 2]])

    def _begin(self, grey: np.ndarray, boxes: Sequence[np.ndarray]) -> None:
        """Takes a frame (H, W) as the key frame."""
        mask = np.full(grey.shape, 255, np.uint8)
        for x1, y1, x2, y2 in boxes:
            mask[max(0, int(y1)) : max(0, int(y2) + 1), max(0, int(x1)) : max(0, int(x2) + 1)] = 0
        self._key, self._pose, self._agreed = grey, _STILL, None
        self._points = cv2.goodFeaturesToTrack(grey, self.corners, 0.01, 7, mask=mask)

    def _follow(self, grey: np.ndarray) -> tuple[np.ndarray, int] | None:
        """The map (2, 3) from the key frame to this one, and how many corners agree on it."""
        if self._key is None or self._points is None or len(self._points) < self.min_inliers:
            return None
        guess = cv2.transform(self._points, self._pose)  # OpenCV writes its result in there
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            self._key, grey, self._points, guess, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
        )
        good = status.ravel() == 1
        if good.sum() < self.min_inliers:
            return None
        matrix, inliers = cv2.estimateAffinePartial2D(
            self._points[good], found[good], method=cv2.RANSAC, ransacReprojThreshold=1.0
        )
        if matrix is None or inliers.sum() < self.min_inliers or not np.isfinite(matrix).all():
            return None
        return matrix, int(inliers.sum())
