"""mmpose's transforms on a clip: every random draw is made once and serves all its frames."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmcv.transforms.utils import cache_random_params
from mmengine.dataset import Compose
from mmpose.datasets.transforms import (
    GetBBoxCenterScale,
    RandomBBoxTransform,
    RandomHalfBody,
    TopdownAffine,
)
from mmpose.registry import TRANSFORMS

# They change nothing but the crop (centre, scale, rotation), by what they find in the frame.
_WINDOW_TRANSFORMS = (RandomHalfBody, RandomBBoxTransform)
_LEADERS = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8"}
_TRAILERS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


class FrameError(RuntimeError):
    """A frame of a clip cannot be used; the message names the clip and the file."""


class ClipPipeline:
    """Runs a pipeline of single-image transforms over the frames of a clip.

    The transforms are mmpose's own, unchanged. One frame of the clip, the *representative*, goes
    first and makes every random draw; the other frames repeat it:

    - A transform that only chooses the crop (`RandomHalfBody`, `RandomBBoxTransform`) runs on the
      representative alone, because what half-body does depends on the keypoints that it sees. The
      shift, the scaling and the rotation that it made there, relative to the crop before it, are
      then applied to every frame: frames with the same crop before have the same crop after.
    - Draws that mmcv knows of (``@cache_randomness``: flips, photometric distortion, ...) are
      cached for the clip by mmcv's own ``cache_random_params``.
    - Anything else (``Albumentation``, other people's transforms) sees, in every frame, the state
      of all random generators that the representative saw, its own included. A transform of
      somebody else whose draws depend on what is in the frame must decorate them with mmcv's
      ``cache_randomness``.

    `GetBBoxCenterScale` gets the clip's crop windows in the place of the boxes; the boxes
    themselves, which metrics need, stay each frame's own.

    A clip advances the random generators as one image does. With a `key`, its draws depend on the
    key alone and the generators stay as they were found.

    Args:
        transforms: Configs or callables, as in any mmpose pipeline.

    Raises:
        ValueError: A window transform is nested in a wrapper together with other transforms.
    """

    def __init__(self, transforms: Sequence[dict | Callable]) -> None:
        # By mmpose's registry, so that names are found under any default scope.
        built = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]
        self.transforms: list[Callable] = Compose(built).transforms
        for transform in self.transforms:
            kinds = {isinstance(leaf, _WINDOW_TRANSFORMS) for leaf in _leaves(transform)}
            if len(kinds) > 1:
                raise ValueError(
                    "a transform that chooses the crop must not share a wrapper with others, "
                    f"whose draws it would follow frame by frame: found {transform}"
                )

    @property
    def padding(self) -> float | None:
        """By how much the pipeline pads a box to the crop, or None if it makes no crop."""
        found = [t for t in self.transforms if isinstance(t, GetBBoxCenterScale)]
        return float(found[0].padding) if found else None

    @property
    def aspect_ratio(self) -> float:
        """Width / height of the network's input; 1 if nothing in the pipeline says it."""
        found = [t for t in self.transforms if isinstance(t, TopdownAffine)]
        return found[0].input_size[0] / found[0].input_size[1] if found else 1.0

    def __call__(
        self,
        frames: Sequence[dict],
        windows: np.ndarray,
        representative: int = 0,
        key: Sequence[int] | None = None,
    ) -> list[dict]:
        """Returns the frames of one clip after all transforms.

        Args:
            frames: T results dicts as mmpose's transforms take them; they are changed.
            windows: (T, 4) unpadded crop windows ``x1, y1, x2, y2`` in pixels.
            representative: Index of the frame that makes the draws.
            key: Non-negative integers that the draws are seeded by.

        Raises:
            FrameError: A frame cannot be loaded, a transform returns nothing for it, or its size
                differs from the other frames': a clip is never shortened.
        """
        results: list[dict] = list(frames)
        order = [representative, *(t for t in range(len(frames)) if t != representative)]
        shape: tuple | None = None
        first = frames[representative].get("img_path")
        with nullcontext() if key is None else self._seeded(key), ExitStack() as stack:
            draws = [_Draw(transform, stack) for transform in self.transforms]
            for t in order:
                result = frames[t]
                path, box = result.get("img_path"), np.array(result["bbox"])
                check_image_file(path)
                for draw in draws:
                    done = draw(result, windows[t], box, leading=t == representative)
                    if done is None:
                        raise FrameError(
                            f"frame {path}: {draw.name} returned nothing; a clip is never "
                            "shortened, so repair the frame or take the clip out"
                        )
                    result = done
                    if draw.loads:
                        shape = shape or result["ori_shape"]
                        if result["ori_shape"] != shape:
                            raise FrameError(
                                f"frame {path}: (height, width) {result['ori_shape']}, but "
                                f"{first} of the same clip has {shape}"
                            )
                results[t] = result
                if t == representative:
                    state = _random_state()
            _restore_random_state(state)
        return results

    @contextmanager
    def _seeded(self, key: Sequence[int]) -> Iterator[None]:
        """Seeds every generator by the key; at the end the global ones are as before."""
        words = np.random.SeedSequence(list(key)).generate_state(8)
        before = _random_state()
        random.seed(words[:2].tobytes())
        np.random.seed(words[2:6])
        # Not torch.manual_seed, which would seed the generators of the GPUs too.
        torch.default_generator.manual_seed(int(words[6]))
        for transform in self.transforms:
            for inner in _tree(transform):
                # mmpose's `Albumentation` keeps albumentations' Compose, which has a generator.
                for owner in (inner, getattr(inner, "aug", None)):
                    reseed = getattr(owner, "set_random_seed", None)
                    if callable(reseed):
                        reseed(int(words[7]))
        try:
            yield
        finally:
            _restore_random_state(before)

    def __repr__(self) -> str:
        lines = "".join(f"\n    {transform}" for transform in self.transforms)
        return f"{type(self).__name__}({lines}\n)"


class _Draw:
    """One transform during one clip: the representative draws, the other frames repeat."""

    def __init__(self, transform: Callable, stack: ExitStack) -> None:
        self.name = type(transform).__name__
        self.loads = isinstance(transform, LoadImageFromFile)
        self._transform = transform
        self._window = isinstance(next(_leaves(transform), None), _WINDOW_TRANSFORMS)
        self._state: _RandomState | None = None
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._after: dict[str, np.ndarray] = {}
        self._twin: Callable | None = None
        tree = list(_tree(transform))
        uncacheable = any(getattr(t, "avoid_cache_randomness", False) for t in tree)
        draws = any(getattr(t, "_methods_with_randomness", None) for t in tree)
        if draws and not uncacheable and not self._window:
            # On a copy: mmcv's context leaves bound methods behind, which cannot be pickled.
            self._transform = copy.deepcopy(transform)
            stack.enter_context(cache_random_params(self._transform))
        # A generator of its own (albumentations has one) is not reached by the global state.
        foreign = not type(transform).__module__.startswith(("mmpose.", "mmcv.", "skippose."))
        self._own_state = uncacheable or (foreign and not draws)

    def __call__(
        self, result: dict, window: np.ndarray, box: np.ndarray, leading: bool
    ) -> dict | None:
        if isinstance(self._transform, GetBBoxCenterScale):
            return self._take_window(result, window, box)
        if self._window:
            return self._choose_crop(result) if leading else self._follow_crop(result)
        transform = self._transform
        if leading:
            self._state = _random_state()
            if self._own_state:
                self._twin = copy.deepcopy(transform)
        else:
            assert self._state is not None, "the representative goes first"
            _restore_random_state(self._state)
            if self._twin is not None:
                transform = copy.deepcopy(self._twin)
        try:
            return transform(result)
        except Exception as error:
            if not self.loads:
                raise
            raise FrameError(f"frame {result.get('img_path')}: {error}") from error

    def _take_window(self, result: dict, window: np.ndarray, box: np.ndarray) -> dict:
        """Centre and scale are the window's; ``bbox``, which metrics use, stays the person's."""
        if not np.array_equal(result["bbox"], box):
            raise ValueError(
                "GetBBoxCenterScale must come before any transform that changes the box: the crop "
                f"windows are in pixels of the image as loaded; found box {result['bbox'].tolist()}"
                f", annotated {box.tolist()}"
            )
        made = self._transform({"bbox": window[None].astype(np.float32)})
        result["bbox_center"], result["bbox_scale"] = made["bbox_center"], made["bbox_scale"]
        return result

    def _choose_crop(self, result: dict) -> dict | None:
        """Runs the transform and remembers what it made of the crop."""
        self._before = (result["bbox_center"].copy(), result["bbox_scale"].copy())
        done = self._transform(result)
        if done is not None:
            keys = ("bbox_center", "bbox_scale", "bbox_rotation")
            self._after = {key: done[key].copy() for key in keys if key in done}
        return done

    def _follow_crop(self, result: dict) -> dict:
        """Moves, scales and rotates a frame's crop as the representative's was."""
        assert self._before is not None, "the representative goes first"
        centre, scale = self._before
        same = np.array_equal(result["bbox_center"], centre) and np.array_equal(
            result["bbox_scale"], scale
        )
        if same:  # bit for bit, so that a crop that stays put still does
            result.update({key: value.copy() for key, value in self._after.items()})
            return result
        shift = (self._after["bbox_center"] - centre) / scale
        result["bbox_center"] = result["bbox_center"] + shift * result["bbox_scale"]
        result["bbox_scale"] = result["bbox_scale"] * (self._after["bbox_scale"] / scale)
        if "bbox_rotation" in self._after:
            result["bbox_rotation"] = self._after["bbox_rotation"].copy()
        return result


def check_image_file(path: Any) -> None:
    """Raises if a local image file is missing, empty or cut off.

    Some decoders return a damaged JPEG with its lower part grey and say nothing, so the end of the
    file is looked at. Files behind another storage backend and other formats are left to the
    loader.

    Raises:
        FrameError: Names the file and what is wrong with it.
    """
    if not isinstance(path, (str, Path)) or ":" in str(path)[2:]:
        return
    file = Path(path)
    if not file.is_file():
        raise FrameError(
            f"frame {file}: missing. Where many are, the data is half-converted or was moved "
            "without its frames: run its converter in tools/dataset_converters/ again"
        )
    kind = file.suffix.lower()
    if kind not in _TRAILERS:
        return
    with file.open("rb") as stream:
        start = stream.read(4)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 1024))
        end = stream.read()
    if not start.startswith(_LEADERS[kind]):
        return  # a file of another format under this name: the loader decides
    if _TRAILERS[kind] not in end:
        raise FrameError(f"frame {file}: truncated ({size} bytes, without the end of the image)")


def _leaves(transform: Any) -> Iterator[Any]:
    """The transforms within a wrapper (``RandomApply``, ``RandomChoice``), or the one itself."""
    if isinstance(transform, Iterable):
        for inner in transform:
            yield from _leaves(inner)
    else:
        yield transform


def _tree(transform: Any) -> Iterator[Any]:
    """A transform and all transforms within it."""
    yield transform
    if isinstance(transform, Iterable):
        for inner in transform:
            yield from _tree(inner)


_RandomState = tuple[Any, Any, torch.Tensor]


def _random_state() -> _RandomState:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _restore_random_state(state: _RandomState) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
