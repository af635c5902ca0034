"""What a camera can do to a video that a network has not seen: shake, flicker, drift, pan."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmpose.registry import DATASETS

from skippose.datasets.clip_dataset import ClipDataset

DEFAULTS = {"shake": 3.0, "flicker": 0.1, "exposure": 0.01, "background": 2.0}
"""Kind -> strength; the units are those of :class:`Perturbation`."""

# Hertz at 25 frames a second, and shares of the strength: the tremor of a camera held by hand.
_TREMOR = ((0.7, 0.6), (2.3, 0.3), (5.1, 0.1))
_FRAME_RATE = 25.0
_LIMB = 0.09  # half the thickness of a limb, as a share of the box's longer side
_FEATHER = 3.0  # pixels


@dataclass(frozen=True)
class Perturbation:
    """One kind of disturbance of the camera's frames, the same for the same clip always.

    - ``shake``: the camera is held by hand: the frame moves by up to ``strength`` pixels in x and
      in y, a sum of three oscillations. Boxes and joints move with it, as a detector's would.
    - ``flicker``: brightness changes from frame to frame by a factor drawn uniformly from
      ``1 - strength`` to ``1 + strength``.
    - ``exposure``: brightness falls by ``strength`` stops a frame to half, and rises again.
    - ``background``: the first frame's background, with the person painted out, moves past at
      ``strength`` pixels a frame, mirrored at its ends, behind the person of every frame. The data
      has no masks, so the person is what lies within 9% of the box's longer side of the lines
      between the annotated joints.

    Args:
        kind: one of `DEFAULTS`.
        strength: at least 0.

    Raises:
        ValueError: an unknown kind, or a strength that is negative or not finite.
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in DEFAULTS:
            raise ValueError(f"a perturbation is one of {sorted(DEFAULTS)}, found {self.kind!r}")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"{self.kind}: strength must be at least 0, found {self.strength}")

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """From ``kind`` or ``kind:strength``."""
        kind, separator, strength = text.partition(":")
        if not separator:
            return cls(kind, DEFAULTS.get(kind, 0.0))
        try:
            return cls(kind, float(strength))
        except ValueError as error:
            raise ValueError(f"perturbation {text!r}: {error}") from error

    def __str__(self) -> str:
        return f"{self.kind}:{self.strength:g}"

    def shifts(self, clip_id: str, frames: int) -> np.ndarray:
        """By how much each frame moves: (T, 2) pixels, x and y; zeros for other kinds."""
        if self.kind != "shake":
            return np.zeros((frames, 2), np.float32)
        seconds = np.arange(frames)[:, None] / _FRAME_RATE
        phases = _generator(clip_id).uniform(0, 2 * np.pi, (len(_TREMOR), 2))
        waves = [
            share * np.sin(2 * np.pi * hertz * seconds + phase)
            for (hertz, share), phase in zip(_TREMOR, phases, strict=True)
        ]
        return (self.strength * np.sum(waves, axis=0)).astype(np.float32)

    def gains(self, clip_id: str, frames: int) -> np.ndarray:
        """The factor on each frame's brightness: (T,); ones for other kinds."""
        if self.kind == "flicker":
            draws = _generator(clip_id).uniform(-1, 1, frames)
            return np.maximum(1 + self.strength * draws, 0).astype(np.float32)
        if self.kind == "exposure":
            way = self.strength * np.arange(frames) % 2
            return np.exp2(-np.minimum(way, 2 - way)).astype(np.float32)
        return np.ones(frames, np.float32)


def _generator(clip_id: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(clip_id.encode()))


@DATASETS.register_module()
class PerturbedClipDataset(ClipDataset):
    """A :class:`ClipDataset` of whole clips whose frames are disturbed before they are cropped.

    Args:
        perturb: ``kind`` or ``kind:strength``, see :class:`Perturbation`; None leaves frames alone.
        play: frames of every clip, which is played back and forth until it has them; None plays it
            once.
        **kwargs: as for :class:`ClipDataset`; ``test_mode`` must be set.

    Raises:
        ValueError: a training data set, ``play`` below 1, or a perturbation that is none.
    """

    def __init__(
        self, *args: Any, perturb: str | None = None, play: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if not self.test_mode:
            raise ValueError("PerturbedClipDataset takes whole clips: set test_mode=True")
        if play is not None and play < 1:
            raise ValueError(f"play must be a number of frames, at least 1, found {play}")
        self.perturbation = None if perturb is None else Perturbation.parse(perturb)
        self.play = play
        if self.perturbation is not None:
            loaders = [
                n
                for n, transform in enumerate(self.pipeline.transforms)
                if isinstance(transform, LoadImageFromFile)
            ]
            if len(loaders) != 1:
                raise ValueError(
                    f"a perturbation needs one LoadImage in the pipeline, found {len(loaders)}"
                )
            at = loaders[0]
            disturb = _Disturb(self.pipeline.transforms[at])
            self.pipeline.transforms.insert(at + 1, disturb)

    def get_data_info(self, idx: int) -> dict:
        """As `ClipDataset`'s; boxes and joints lie where the disturbed frames show them."""
        info = super().get_data_info(idx)
        frames = info["frames"]
        if self.play is not None:
            there_and_back = [*frames, *frames[-2:0:-1]]
            frames = [
                {**_copy(there_and_back[t % len(there_and_back)]), "frame": t}
                for t in range(self.play)
            ]
            info["frames"] = frames
        if self.perturbation is None:
            return info
        shifts = self.perturbation.shifts(info["clip_id"], len(frames))
        gains = self.perturbation.gains(info["clip_id"], len(frames))
        first = frames[0]
        for t, (frame, shift, gain) in enumerate(zip(frames, shifts, gains, strict=True)):
            frame["bbox"] = frame["bbox"] + np.tile(shift, 2)
            frame["keypoints"] = frame["keypoints"] + shift
            frame["disturbance"] = dict(shift=shift, gain=float(gain))
            if self.perturbation.kind == "background":
                frame["disturbance"].update(pan=self.perturbation.strength * t, first=first)
        return info


def _copy(frame: dict) -> dict:
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in frame.items()}


class _Disturb:
    """A transform: does to a loaded image what its ``disturbance`` says."""

    def __init__(self, load: Callable[[dict], dict]) -> None:
        self._load = load
        self._background: tuple[str, np.ndarray] | None = None  # of the clip at hand

    def __call__(self, result: dict) -> dict:
        how = result.pop("disturbance")
        image = result["img"]
        if "pan" in how:
            mask = person_mask(result, image.shape[:2], _FEATHER)[..., None]
            behind = _moved(self._behind(how["first"]), how["pan"], 0.0, cv2.BORDER_REFLECT_101)
            image = np.round(mask * image + (1 - mask) * behind).astype(np.uint8)
        if how["shift"].any():
            right, down = how["shift"].tolist()
            image = _moved(image, right, down, cv2.BORDER_REPLICATE)
        if how["gain"] != 1:
            image = cv2.convertScaleAbs(image, alpha=how["gain"])
        result["img"] = image
        return result

    def _behind(self, first: dict) -> np.ndarray:
        """The first frame with the person painted out."""
        path = first["img_path"]
        if self._background is None or self._background[0] != path:
            image = self._load(dict(img_path=path))["img"]
            person = (person_mask(first, image.shape[:2], 0.0) > 0).astype(np.uint8)
            hole = cv2.dilate(person, np.ones((9, 9), np.uint8))
            self._background = (path, cv2.inpaint(image, hole, 5, cv2.INPAINT_TELEA))
        return self._background[1]


def person_mask(frame: dict, size: tuple[int, int], feather: float) -> np.ndarray:
    """Where the person is, by the lines between joints: (H, W) float32 from 0 to 1.

    Args:
        frame: ``keypoints`` (1, K, 2), ``bbox`` (1, 4) and ``skeleton_links`` of one frame. An
            unlabelled frame, which has no joints, gives its whole box.
        size: height and width in pixels.
        feather: standard deviation in pixels of the blur at the edge; 0 for a sharp one.
    """
    mask = np.zeros(size, np.float32)
    joints, box = frame["keypoints"][0], frame["bbox"][0]
    if not frame.get("labelled", True):
        x0, y0, x1, y1 = np.round(box).astype(int).tolist()
        cv2.rectangle(mask, (x0, y0), (x1, y1), 1.0, -1)
    else:
        width = max(1, round(2 * _LIMB * float(np.max(box[2:] - box[:2]))))
        for a, b in frame["skeleton_links"]:
            ends = np.round(joints[[a, b]]).astype(int).tolist()
            cv2.line(mask, ends[0], ends[1], 1.0, width)
    return cv2.GaussianBlur(mask, (0, 0), feather) if feather else mask


def _moved(image: np.ndarray, x: float, y: float, border: int) -> np.ndarray:
    """An image that is moved by x and y pixels, which need not be whole."""
    height, width = image.shape[:2]
    if border == cv2.BORDER_REFLECT_101 and width > 1:  # the same, without a far way to go
        x = x % (2 * (width - 1))
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
