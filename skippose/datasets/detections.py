"""Detections linked to clips of one person: a detector gives boxes, a clip needs to know whose."""

from __future__ import annotations

import numpy as np

from .clip_index import Clip, videos_of


def link_detections(
    images: list[dict], detections: list[dict], min_iou: float = 0.3, max_gap: int = 8
) -> list[Clip]:
    """Links the detections of each video to clips, greedily by overlap.

    Frame by frame, in the video's order, the pairs of a track's last box and a detection whose
    intersection over union (IoU) is at least ``min_iou`` are matched from the highest IoU down
    (equal ones: the older track, then the earlier detection). A detection without a match begins a
    track, and a track that more than ``max_gap`` frames leave unmatched has ended. Causal: a frame
    is linked without a look at the next ones. Every detection is in exactly one clip.

    A clip runs from its first to its last detection; a frame in between without one is unlabelled.

    Args:
        images: COCO image entries.
        detections: Data infos with ``img_id`` and ``bbox`` (1, 4) as ``x1, y1, x2, y2`` in pixels.
        min_iou: IoU from which on two boxes may be one person's.
        max_gap: Frames without a match that a track outlives.

    Returns:
        Clips with the ids ``<video directory>#d<n>``, numbered in the order of their beginnings.
    """
    by_image: dict = {image["id"]: [] for image in images}
    for detection in detections:
        by_image[detection["img_id"]].append(detection)

    clips = []
    for video, frames in videos_of(images).items():
        tracks: list[dict[int, dict]] = []  # frame -> detection
        for t, image in enumerate(frames):
            found = by_image[image["id"]]
            alive = [track for track in tracks if t - max(track) <= max_gap + 1]
            last = [track[max(track)]["bbox"][0] for track in alive]
            taken = set()
            for row, column in _greedy(last, [d["bbox"][0] for d in found], min_iou):
                alive[row][t] = found[column]
                taken.add(column)
            tracks += [{t: d} for column, d in enumerate(found) if column not in taken]
        for number, track in enumerate(tracks):
            span = range(min(track), max(track) + 1)
            instances = [track.get(t) for t in span]
            clips.append(Clip(f"{video}#d{number}", [frames[t] for t in span], instances))
    return clips


def _greedy(rows: list, columns: list, min_iou: float) -> list[tuple[int, int]]:
    """Pairs of (row, column), the highest IoU first, each row and column once."""
    if not rows or not columns:
        return []
    overlap = iou(np.stack(rows), np.stack(columns))
    pairs = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(columns))
        if overlap[row, column] >= min_iou:
            pairs.append((row, column))
            overlap[row, :] = overlap[:, column] = -1
    return pairs


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4), ``x1, y1, x2, y2``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b))
    return shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9)
