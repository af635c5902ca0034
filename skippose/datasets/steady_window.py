"""A crop window that stays on the background while the camera moves.

A camera that pans moves every pixel of a window that stays put. Here the window follows the
background instead, by whole pixels of the image: a shift by a whole number samples the background
at the same positions as before, so that its pixels in the crop are the same ones again, up to the
fraction of a pixel that the camera really moved beside (at most half a pixel, for the fractions are
carried on). What enters at the image's border is new, and is computed as any other change.

Following the background is wrong where the person stays in the picture and the background runs
through, or where more of the crop is person than background. So every frame is looked at twice, in
the window as it is and in the shifted one, against what was last seen; the one with fewer changes
is taken. And what all shifts have saved so far is kept account of, against a window that never
follows: with nothing saved, nothing is followed.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .camera_motion import CameraMotion
from .crop_windows import HysteresisWindow, check_box


class SteadyWindow:
    """A `HysteresisWindow` that follows the background where that leaves less to compute.

    A small grey copy of the crop says how much there is to compute. A cell of it counts as changed
    when it differs from what it was when it last counted by more than a threshold of the crop's
    mean contrast, as the cells of a gated first layer do. The gates' own threshold is not known
    here: the *cost* of a frame is the share of changed cells, averaged over ``eps``, and 1 where
    the window is placed anew.

    The window is shifted by the camera's motion in whole pixels if that frame costs less than
    ``gain`` times what it costs without the shift, if the person is still within the margin then,
    and if no more has been spent since the video began than a window that never follows would have
    spent. Motion that was not followed is forgotten: the next shift is against what was seen last.

    Causal. `placed` says after each update whether the crop is a new one, so that a stream's slot
    is to be reset.

    Args:
        window: The hysteresis, with its settings.
        eps: Changes of a cell that count, relative to the crop's mean contrast.
        gain: Share of a frame's cost below which a shift is worth it. A shift that saves next to
            nothing is none: the camera follows the person, who would be driven off the middle of
            the crop, where networks find joints less well, and be lost.

    Raises:
        ValueError: no threshold or a negative one; a gain out of its range.
    """

    def __init__(
        self,
        window: HysteresisWindow,
        eps: Sequence[float] = (0.1, 0.2, 0.4),
        gain: float = 0.9,
    ) -> None:
        if not eps or min(eps) < 0:
            raise ValueError(f"eps must be thresholds of at least 0, found {eps}")
        if not 0 < gain <= 1:
            raise ValueError(f"gain must be above 0 and at most 1, found {gain}")
        self._settings = window
        self.eps = tuple(eps)
        self.gain = gain
        self.reset()

    def reset(self) -> None:
        """Forgets the video; the next box is a first one."""
        self._window = _Watched(self._settings.copy(), self.eps)
        self._plain = _Watched(self._settings.copy(), self.eps)
        self._carry = np.zeros(2)
        self.placed = True

    @property
    def spent(self) -> tuple[float, float]:
        """Costs so far, in crops after the first: without any shift, and of this window."""
        return self._plain.spent, self._window.spent

    def update(self, bbox: np.ndarray, image: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """Returns the window (4,) for the next frame.

        Args:
            bbox: the person's box (4,) in this frame.
            image: (H, W, 3) or (H, W), uint8.
            motion: The background's affine map (2, 3) from the last frame's pixels to this one's.

        Raises:
            ValueError: the box is not finite or has no area; nothing has changed then.
        """
        bbox = check_box(bbox)
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        saved = self._plain.spent - self._window.spent
        self._plain.update(bbox, grey)
        held = self._window.held
        if held is not None:
            centre = np.append((held[:2] + held[2:]) / 2, 1.0)
            self._carry += motion @ centre - centre[:2]
            shift = np.round(self._carry)
            self._carry -= shift
            if shift.any() and saved >= 0:
                without = self._window.cost(bbox, grey, np.zeros(2))
                if self._window.cost(bbox, grey, shift) < self.gain * without:
                    self._window.shift(shift)
        self._window.update(bbox, grey)
        self.placed = self._window.placed
        if self.placed:
            self._carry[:] = 0
        assert self._window.held is not None
        return self._window.held.copy()


class _Watched:
    """A window, and what there would have been to compute in it.

    Attributes:
        spent: costs of the frames after the first.
    """

    def __init__(self, window: HysteresisWindow, eps: Sequence[float]) -> None:
        self._window = window
        self._eps = np.array(eps)
        self._seen: np.ndarray | None = None  # (E, rows, columns, 64), for each threshold
        self.spent = 0.0

    @property
    def held(self) -> np.ndarray | None:
        return self._window.held

    @property
    def placed(self) -> bool:
        return self._window.placed

    def shift(self, by: np.ndarray) -> None:
        self._window.shift(by)

    def cost(self, bbox: np.ndarray, grey: np.ndarray, shift: np.ndarray) -> float:
        """What a frame (H, W) would cost with a shift (2,); nothing is changed."""
        assert self.held is not None
        window = self.held + np.tile(shift, 2).astype(np.float32)
        if not self._window.fits(bbox, window):
            return 1.0
        return float(self._changed(self._crop(window, grey)).mean())

    def update(self, bbox: np.ndarray, grey: np.ndarray) -> None:
        """Takes a frame (H, W) and the person's box (4,) in it."""
        crop = self._crop(self._window.update(bbox), grey)
        if self._seen is None or self._window.placed:
            self.spent += 0.0 if self._seen is None else 1.0
            self._seen = np.repeat(crop[None], len(self._eps), axis=0)
            return
        changed = self._changed(crop)
        self.spent += float(changed.mean())
        self._seen = np.where(changed[..., None], crop, self._seen)

    def _changed(self, crop: np.ndarray) -> np.ndarray:
        """(E, rows, columns): for each threshold, the cells that differ from what was seen."""
        contrast = max(float(np.abs(crop - crop.mean()).mean()), 1.0)
        return np.abs(crop - self._seen).mean(axis=-1) > contrast * self._eps[:, None, None]

    def _crop(self, window: np.ndarray, grey: np.ndarray) -> np.ndarray:
        """The crop's cells (rows, columns, 64) of 8x8 pixels, about 96 pixels high."""
        size = self._window.crop_size(window)
        rows = 12
        columns = max(1, round(rows * float(size[0] / size[1])))
        scale = np.array([columns * 8, rows * 8]) / size
        corner = (window[:2] + window[2:]) / 2 - size / 2
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
