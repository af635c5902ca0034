"""An annotation file, read as clips by what mmpose's data set makes of its entries."""

from __future__ import annotations

import os.path as osp
from typing import Any

import numpy as np
from mmengine.fileio import exists, load

from .clip_index import Clip, index_clips
from .detections import link_detections

LINK_GAP = 8
"""Frames without a match that a track of detections outlives where nothing says how many."""


def read_clips(
    dataset: Any, max_gap: int | None = None, link_iou: float = 0.3
) -> tuple[list[Clip], list[str], list | None]:
    """Reads the clips of a wrapped data set: of its annotations, or of its file of detections.

    mmpose's samples do not say what video they come from, therefore the file is read here; what an
    annotation or a detection means is left to the data set.

    Args:
        dataset: A top-down data set of mmpose that holds videos.
        max_gap: Unlabelled frames that a clip may have in a row; None: any number (`LINK_GAP` in
            the linking of detections).
        link_iou: Overlap from which on two detections in frames that follow are one person's.

    Returns:
        The clips; the files of the frames in which a box was rejected, once for each; the file's
        categories, if it has any.

    Raises:
        FileNotFoundError: The annotation file or the file of detections is missing.
        ValueError: It is no such file; an entry of it cannot be read; its track ids are missing or
            contradict one another; no detection is left. See `index_clips`. The message names the
            file.
    """
    path = dataset.ann_file
    if not exists(path):
        raise FileNotFoundError(
            f"annotation file {path}: missing. Make the data with tools/dataset_converters/"
            "jhmdb.py (posetrack18.py beside it for PoseTrack18, synthetic.py for rendered clips) "
            "or, if it is made already, say where: export SKIPPOSE_DATA=FOLDER "
            "(SKIPPOSE_POSETRACK18=FOLDER for configs/posetrack18, SKIPPOSE_SYNTHETIC=FOLDER for "
            f"configs/demo); the data root is now {dataset.data_root!r}"
        )
    try:
        # As JSON, whatever its name says: mmengine runs what is in .pkl and .yaml files.
        content = load(path, file_format="json")
    except ValueError as error:
        raise ValueError(f"annotation file {path}: no JSON ({error})") from error
    for key, fields in (("images", ("id", "file_name")), ("annotations", ("id", "image_id"))):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"annotation file {path}: found no {key!r}; expected COCO's format")
        for number, entry in enumerate(content[key]):
            if missing := [name for name in fields if name not in entry]:
                raise ValueError(
                    f"annotation file {path}: entry {number} of {key!r} has no {missing[0]!r}: "
                    f"found {sorted(entry)}"
                )
    if not content["images"]:
        raise ValueError(f"annotation file {path}: 'images' is empty")
    for image in content["images"]:  # as mmpose's own loader does before it parses
        image["img_id"] = image["id"]
        image["img_path"] = osp.join(dataset.data_prefix["img"], image["file_name"])
    rejected: list[str] = []
    joints = dataset.metainfo["num_keypoints"]  # a copy of it all each time

    def parse(annotation: dict, image: dict) -> dict | None:
        """What mmpose's loader makes of an annotation, None if it would drop it."""
        try:
            info = dataset.parse_data_info(dict(raw_ann_info=annotation, raw_img_info=image))
        except (ValueError, TypeError, KeyError) as error:
            if missing := [name for name in ("width", "height") if name not in image]:
                raise ValueError(
                    f"{image['file_name']}: image {image['id']} has no {missing[0]!r}: found "
                    f"{sorted(set(image) - {'img_id', 'img_path'})}"
                ) from error
            raise ValueError(
                f"{image['file_name']}: annotation {annotation['id']} cannot be read "
                f"({type(error).__name__}: {error}); expected bbox (x, y, w, h), and keypoints "
                "(x, y, visibility) for every joint"
            ) from error
        if info and info["keypoints"].shape[1] != joints:
            raise ValueError(
                f"{image['file_name']}: annotation {annotation['id']} has "
                f"{info['keypoints'].shape[1]} joints, {type(dataset).__name__} has {joints}"
            )
        if info and np.isfinite(info["bbox"]).all() and dataset._is_valid_instance(info):
            return info
        rejected.append(image["file_name"])
        return None

    try:
        if getattr(dataset, "bbox_file", None):
            boxes = _detections(dataset, rejected)
            gap = LINK_GAP if max_gap is None else max_gap
            clips = link_detections(content["images"], boxes, link_iou, gap)
        else:
            clips = index_clips(content["images"], content["annotations"], parse, max_gap)
    except ValueError as error:
        raise ValueError(f"annotation file {path}: {error}") from error
    return clips, rejected, content.get("categories")


def _detections(dataset: Any, rejected: list[str]) -> list[dict]:
    """What mmpose's loader makes of the file of detections, those that have an area."""
    path = dataset.bbox_file
    if not exists(path):
        raise FileNotFoundError(f"file of detections {path}: missing")
    if not str(path).endswith(".json"):  # mmpose goes by the ending, and others run code
        raise ValueError(f"file of detections {path}: expected a .json file")
    try:
        found = dataset._load_detection_results()
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"file of detections {path}: expected a list of dicts with image_id (of an image that "
            "the annotation file lists), category_id, bbox (x, y, w, h) and score: "
            f"{type(error).__name__} {error}"
        ) from error
    dataset.data_list = found
    kept = dataset.filter_data()
    dataset.data_list = []
    valid = []
    for info in kept:
        box = info["bbox"][0]
        if np.isfinite(box).all() and (box[2:] > box[:2]).all():
            valid.append(info)
        else:
            rejected.append(info["img_path"])
    if not valid:
        raise ValueError(
            f"file of detections {path}: no detection is left of {len(found)} people, {len(kept)} "
            "of them with a score above the threshold of "
            f"filter_cfg={dataset.filter_cfg}"
        )
    return valid
