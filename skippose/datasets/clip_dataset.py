"""Clips of one person, cut from any of mmpose's top-down data sets that hold videos."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.dataset import BaseDataset, force_full_init
from mmengine.logging import print_log
from mmpose.registry import DATASETS
from mmpose.structures import PoseDataSample

from .annotation_file import read_clips
from .clip_index import Clip, has_gap, window_frames
from .clip_pipeline import ClipPipeline, FrameError, check_image_file
from .crop_windows import CROP_MODES, HysteresisWindow, clip_windows
from .steady_window import steady_windows

# What mmpose's transforms and models expect of the data set in every sample.
_METAINFO_KEYS = (
    "dataset_name",
    "upper_body_ids",
    "lower_body_ids",
    "flip_pairs",
    "dataset_keypoint_weights",
    "flip_indices",
    "skeleton_links",
)
# Settings of the wrapped data set that choose or change its samples, with the value that they must
# have: the wrapper reads the annotation file itself and would otherwise ignore them silently.
_PLAIN = dict(filter_cfg=None, _indices=None, sample_interval=1, data_mode="topdown")


class ClipSamples:
    """The samples of a clip's T frames, in order.

    Behaves as a list for reading. It is no `Sequence` because mmengine's ``pseudo_collate`` turns
    sequences around (T lists of B samples) and refuses those of unequal length, which clips have.
    """

    def __init__(self, samples: Sequence[PoseDataSample]) -> None:
        self._samples = list(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[PoseDataSample]:
        return iter(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[index]

    def get(self, key: str, default: Any = None) -> Any:
        """A field of the first labelled sample, where mmpose's hooks expect a sample."""
        labelled = [s for s in self._samples if s.get("labelled", True)] or self._samples
        return labelled[0].get(key, default)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._samples!r})"


class EpochIndex(int):
    """An index that says to what pass over the data set it belongs.

    For samplers without end, where workers fetch items of the next pass beside the last of this
    one, so that no common counter can tell them apart.
    """

    def __new__(cls, index: int, epoch: int = 0) -> EpochIndex:
        self = super().__new__(cls, index)
        self.epoch = epoch
        return self

    epoch: int


@DATASETS.register_module()
class ClipDataset(BaseDataset):
    """Clips of one person from a data set of annotated videos.

    Wraps one of mmpose's top-down data sets. Its file paths, its meta information and its reading
    of an annotation (JHMDB's is 1-based, for instance) are used as they are; only the grouping into
    clips is done here, because mmpose's samples do not say what video they come from.

    An item is ``dict(inputs, data_samples)``: the frames, uint8 ``(T, 3, H, W)``, and T
    `PoseDataSample`. Beside what the pipeline packs, each has in its metainfo ``clip_id``
    (``<video directory>#<track id>``), ``frame`` (0-based index in the clip) and ``labelled``. With
    a pipeline that packs nothing an item is ``dict(clip_id, frames)``, T results dicts.

    Rules:

    - A clip is one person (``track_id``) in one video (directory of images), in the order of the
      frame numbers, from the person's first to the last annotation and on over adjoining frames
      in which nobody is annotated. Where no annotation has a track id, a video must show one
      person.
    - Training (``test_mode=False``): items are windows of at most ``clip_len`` frames that are
      ``stride`` frames apart; together they show (almost) every frame once. The order of items is
      the file's, always; a sampler shuffles. A window without a label is left out, and how many is
      logged. Testing: an item is a whole clip; ``clip_len`` and ``stride`` play no role.
    - A short clip is an item as short as it is; the preprocessor pads it.
    - An unlabelled frame is input without loss: ``labelled`` is False, no keypoint is visible, all
      weights are 0, and the box is that of the last labelled frame before it (of the first one
      after it, at the start of a clip).
    - A person who is away from more than ``max_gap`` frames in a row comes back as another clip
      (``<video directory>#<track id>/2``), and a clip goes on over at most ``max_gap`` frames
      before its first and after its last label. None: any number.
    - A gap in the numbers of the listed frames (the file leaves some out) does not divide a clip;
      clips with gaps are counted and a warning is logged.
    - A label that mmpose's loader rejects (no visible joint, a box without area within the image)
      or whose box is not finite is none: its frame is unlabelled. How many is logged.
    - Where the wrapped data set has a ``bbox_file`` (for testing), the boxes are that file's, of
      mmpose's format and with mmpose's ``filter_cfg=dict(bbox_score_thr=...)``. Detections have no
      track ids: they are linked by overlap, see `link_detections`. Every detection is a labelled
      frame, that is, it is evaluated once; those without area or with numbers that are not finite
      are left out and counted. A frame without detections is no frame of anybody's; a file of which
      no detection is left raises.
    - A frame that is missing, unreadable, cut off, or of another size than its clip raises
      `FrameError`, which names the file, when the item is asked for. A clip is never shortened.
    - All random draws of the pipeline are made once for an item: see `ClipPipeline`. They come from
      the global generators, or, after `seed_draws`, from the seed, the epoch and the index alone.

    The crop window stays put where `crop` says so: ``'hysteresis'`` moves it only when the person's
    box leaves an inner margin; ``'first'`` never moves it; ``'union'`` covers the whole item and
    needs its future: offline only; ``'frame'`` is mmpose's own crop around each frame's box, which
    moves every pixel of every frame. See `skippose.datasets.crop_windows`. A training window has
    its own crop window, from its first frame on.

    Args:
        dataset: The mmpose data set, as a config or built, with an empty pipeline.
        clip_len: Frames of a training window.
        stride: Frames from one frame of a training window to the next.
        crop: ``'hysteresis'``, ``'union'``, ``'first'`` or ``'frame'``.
        pipeline: Transforms for single images, as in any mmpose config.
        test_mode: Whether items are whole clips.
        crop_cfg: ``margin`` and ``shrink`` of the hysteresis.
        stabilise: With the hysteresis: whether the window also follows a moving background where
            that leaves less to compute, see `skippose.datasets.steady_window`. Frames are read
            twice then.
        max_gap: Unlabelled frames that a clip may have in a row; None: any number (8 frames in the
            linking of detections).
        link_iou: Overlap from which on two detections in frames that follow are one person's.
        metainfo: As in mmpose's data sets, for a wrapped data set that is given as a config.
            mmpose's ``init_model`` looks here where a checkpoint carries no meta information.
        indices: Only these items (or the first so many).
        serialize_data: Keep the clips as bytes that all workers share.
        lazy_init: Read the annotation file when it is first needed.
        max_refetch: As in `mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: An argument out of its range; a wrapped data set with a pipeline or with
            settings that choose among its samples; an annotation file whose track ids are missing
            or contradict one another; detections of images that it does not list, or none at all.
        FileNotFoundError: The annotation file or the file of detections is missing.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        clip_len: int = 8,
        stride: int = 1,
        crop: str = "hysteresis",
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        crop_cfg: dict | None = None,
        stabilise: bool = False,
        max_gap: int | None = None,
        link_iou: float = 0.3,
        metainfo: dict | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        for name, value in (("clip_len", clip_len), ("stride", stride)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, found {value!r}")
        if crop not in CROP_MODES:
            raise ValueError(f"crop must be one of {CROP_MODES}, found {crop!r}")
        if max_gap is not None and (not isinstance(max_gap, int) or max_gap < 0):
            raise ValueError(f"max_gap must be a number of frames or None, found {max_gap!r}")
        if not 0 < link_iou <= 1:
            raise ValueError(f"link_iou must be above 0 and at most 1, found {link_iou!r}")
        if stabilise and crop != "hysteresis":
            raise ValueError(f"stabilise needs crop='hysteresis', found {crop!r}")
        self.clip_len = clip_len
        self.stride = stride
        self.stabilise = stabilise
        self.max_gap = max_gap
        self.link_iou = link_iou
        self.crop = crop
        self._draws: torch.Tensor | None = None  # seed, number, epoch, in shared memory
        if metainfo is not None:
            if not isinstance(dataset, dict) or "metainfo" in dataset:
                raise ValueError(
                    "metainfo is for a wrapped data set that is given as a config without its own"
                )
            dataset = {**dataset, "metainfo": metainfo}
        self.dataset = self._build_wrapped(dataset, test_mode)
        super().__init__(
            ann_file=self.dataset.ann_file,
            indices=indices,
            serialize_data=serialize_data,
            pipeline=[],
            test_mode=test_mode,
            lazy_init=True,
            max_refetch=max_refetch,
        )
        self.data_root = self.dataset.data_root
        self.data_prefix = self.dataset.data_prefix
        self._metainfo = self.dataset.metainfo
        self.pipeline = ClipPipeline(pipeline)
        if crop != "frame" and pipeline and self.pipeline.padding is None:
            raise ValueError(
                f"crop={crop!r} needs GetBBoxCenterScale in the pipeline, which makes a crop of a "
                f"window; found {[type(t).__name__ for t in self.pipeline.transforms]}"
            )
        self._crop_args: dict = dict(
            aspect_ratio=self.pipeline.aspect_ratio,
            padding=self.pipeline.padding or 1.25,
            **(crop_cfg or {}),
        )
        clip_windows("hysteresis", np.array([[0, 0, 1, 1]]), **self._crop_args)  # checks them
        if not lazy_init:
            self.full_init()

    @staticmethod
    def _build_wrapped(dataset: dict | BaseDataset, test_mode: bool) -> BaseDataset:
        """Builds the wrapped data set without letting it read its annotation file."""
        if isinstance(dataset, dict):
            config = {"test_mode": test_mode, **dataset, "lazy_init": True}
            dataset = DATASETS.build(config)
        name = type(dataset).__name__
        if dataset.pipeline.transforms:
            raise ValueError(
                f"{name}'s own pipeline must be empty, the transforms belong to ClipDataset: found "
                f"{[type(t).__name__ for t in dataset.pipeline.transforms]}"
            )
        for key, plain in _PLAIN.items():
            found = getattr(dataset, key, plain)
            if key == "filter_cfg" and getattr(dataset, "bbox_file", None):
                continue  # mmpose's own filter of detections by their score
            if found != plain and not (plain is None and not found):
                raise ValueError(
                    f"ClipDataset reads {name}'s annotation file itself and cannot honour "
                    f"{key.lstrip('_')}={found!r}; expected {plain!r}"
                )
        if not hasattr(dataset, "parse_data_info"):
            raise ValueError(f"{name} is no COCO-style data set of mmpose")
        return dataset

    def load_data_list(self) -> list[dict]:
        """Returns the items: dicts of ``clip_id`` and ``frames`` (T results dicts)."""
        path = self.dataset.ann_file
        clips, rejected, categories = read_clips(self.dataset, self.max_gap, self.link_iou)
        if categories is not None:
            self._metainfo["CLASSES"] = categories
        items: list[dict] = []
        unlabelled = 0
        for clip in clips:
            frames = self._frame_infos(clip)
            count = len(frames)
            windows = [list(range(count))]
            if not self.test_mode:
                windows = window_frames(count, self.clip_len, self.stride)
            for window in windows:
                if any(frames[t]["labelled"] for t in window):
                    items.append(dict(clip_id=clip.clip_id, frames=[frames[t] for t in window]))
                else:
                    unlabelled += 1
        gaps = [clip.clip_id for clip in clips if has_gap(clip)]
        if gaps:
            print_log(
                f"{path}: {len(gaps)} of {len(clips)} clips have gaps in the numbers of their "
                f"frames, the first is {gaps[0]}",
                logger="current",
                level=logging.WARNING,
            )
        if rejected:
            print_log(
                f"{path}: {len(rejected)} boxes are left out (not finite, no area in the image, "
                f"no visible joint), the first in {rejected[0]}",
                logger="current",
            )
        labels = [label for clip in clips for label in clip.labelled]
        print_log(
            f"{path}: {len(items)} items from {len(clips)} clips, {len(labels)} frames "
            f"({len(labels) - sum(labels)} unlabelled); {unlabelled} windows without a label left "
            "out",
            logger="current",
        )
        return items

    def _frame_infos(self, clip: Clip) -> list[dict]:
        """One results dict for each frame; unlabelled ones borrow the box of a labelled one."""
        donor = next(instance for instance in clip.instances if instance is not None)
        infos = []
        for index, (image, instance) in enumerate(zip(clip.images, clip.instances, strict=True)):
            if instance is not None:
                info = donor = instance
            else:
                info = copy.deepcopy(donor)
                info["keypoints"] = np.zeros_like(info["keypoints"])
                info["keypoints_visible"] = np.zeros_like(info["keypoints_visible"])
                info.update(id=-1, img_id=image["id"], img_path=image["img_path"], num_keypoints=0)
                info.pop("raw_ann_info", None)
            infos.append({**info, "labelled": instance is not None, "frame": index})
        return infos

    def seed_draws(self, seed: int | None, number: int = 0) -> None:
        """Makes an item's random draws depend on (seed, number, epoch, index) alone.

        Whatever the number of workers. To be called on the loader's own data set (mmengine's runner
        copies the one that it is given) before workers start; `set_epoch` reaches them later.

        Args:
            seed: A non-negative integer, or None for draws from the global generators.
            number: Tells data sets apart that are trained on together.
        """
        if seed is None:
            self._draws = None
            return
        if seed < 0 or number < 0:
            raise ValueError(f"seed and number must not be negative, found {seed} and {number}")
        self._draws = torch.tensor(
            [seed, number, 0], dtype=torch.int64, device="cpu"
        ).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """The epoch that draws are seeded by, in this process and in all workers."""
        if self._draws is not None:
            self._draws[2] = epoch

    def _draw_key(self, idx: int) -> tuple[int, ...] | None:
        if self._draws is None:
            return None
        seed, number, epoch = self._draws.tolist()
        return seed, number, getattr(idx, "epoch", epoch), int(idx) % len(self)

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Returns an item before the pipeline: ``clip_id``, ``sample_idx`` and T results dicts."""
        info = super().get_data_info(int(idx))
        for position, frame in enumerate(info["frames"]):
            frame["clip_id"] = info["clip_id"]
            frame["position"] = position  # in the item, for transforms that change over time
            for key in _METAINFO_KEYS:
                frame[key] = copy.deepcopy(self._metainfo[key])
        return info

    @force_full_init
    def prepare_data(self, idx: int) -> dict:
        """Returns an item after the pipeline.

        Raises:
            FrameError: A frame cannot be used; the message names the clip and the file.
        """
        info = self.get_data_info(idx)
        frames = info["frames"]
        keys = ("clip_id", "frame", "labelled")
        identity = [{key: frame[key] for key in keys} for frame in frames]
        boxes = np.stack([frame["bbox"][0] for frame in frames])
        if self.stabilise:
            grey = [_read_grey(frame["img_path"]) for frame in frames]
            windows = steady_windows(grey, boxes, HysteresisWindow(**self._crop_args))
        else:
            windows = clip_windows(self.crop, boxes, **self._crop_args)
        labelled = [t for t, frame in enumerate(frames) if frame["labelled"]]
        # The middle one stands for the clip where draws depend on the person, as half-body's do.
        middle = labelled[len(labelled) // 2]
        results = self.pipeline(frames, windows, middle, key=self._draw_key(idx))
        if not all("inputs" in result and "data_samples" in result for result in results):
            return dict(clip_id=info["clip_id"], frames=results)
        for result, values in zip(results, identity, strict=True):
            result["data_samples"].set_metainfo(values)
        return dict(
            inputs=torch.stack([result["inputs"] for result in results]),
            data_samples=ClipSamples([result["data_samples"] for result in results]),
        )


def _read_grey(path: str) -> np.ndarray:
    """A frame's grey pixels (H, W), for the camera's motion.

    Raises:
        FrameError: It cannot be read; the message names the file.
    """
    check_image_file(path)
    image = mmcv.imread(path, flag="grayscale")
    if image is None:
        raise FrameError(f"frame {path}: not an image")
    return image
