"""A tiny data set of clips in JHMDB's annotation format, made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

SIZE = (72, 96)  # height, width
JOINTS = 15


def make_clip(
    root: Path,
    name: str,
    images: np.ndarray,
    keypoints: np.ndarray,
    boxes: np.ndarray,
    number: int,
    **extra: object,
) -> tuple[list[dict], list[dict]]:
    """Writes a clip's frames; returns its images and annotations (1-based, as JHMDB's are).

    Args:
        root: The data root.
        name: ``<class>/<clip>``.
        images: (T, H, W, 3).
        keypoints: (T, 15, 3) 0-based pixels and visibility.
        boxes: (T, 4) 0-based ``x, y, w, h``.
        number: The clip's number, from which the ids are made.
        **extra: Further entries of each annotation.
    """
    folder = root / "Rename_Images" / name
    folder.mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for t, (image, points, box) in enumerate(zip(images, keypoints, boxes, strict=True), 1):
        cv2.imwrite(str(folder / f"{t:05d}.png"), image)
        image_id = number * 10000 + t
        entries.append(
            dict(
                is_labeled=True,
                file_name=f"Rename_Images/{name}/{t:05d}.png",
                nframes=len(images),
                frame_id=image_id,
                vid_id=f"{number:05d}",
                id=image_id,
                width=image.shape[1],
                height=image.shape[0],
            )
        )
        annotations.append(
            dict(
                keypoints=(points + [1, 1, 0]).ravel().tolist(),
                track_id=0,
                image_id=image_id,
                bbox=(box + [1, 1, 0, 0]).tolist(),
                scores=[],
                category_id=1,
                id=10**12 + image_id,
                **extra,
            )
        )
    return entries, annotations


def person(rng: np.random.Generator, frames: int, drift: float = 0.0) -> tuple:
    """Keypoints (T, 15, 3) and boxes (T, 4) of a person who drifts to the right."""
    box = np.array([30.0, 16.0, 24.0, 40.0])
    boxes = box + np.arange(frames)[:, None] * [drift, 0, 0, 0]
    points = rng.uniform(0.1, 0.9, (frames, JOINTS, 2)) * boxes[:, None, 2:] + boxes[:, None, :2]
    visible = np.full((frames, JOINTS, 1), 2.0)
    return np.concatenate([points, visible], axis=2), boxes


class Root:
    """A data root that tests add clips to and then write the annotation of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rng = np.random.default_rng(0)
        self.content: dict = dict(categories=[dict(id=1, name="person")], images=[], annotations=[])

    def add(
        self,
        name: str,
        frames: int,
        image: Callable[[int], np.ndarray] | None = None,
        points: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        drift: float = 0.0,
        **extra: object,
    ) -> None:
        own_points, own_boxes = person(self.rng, frames, drift)
        images = [
            image(t) if image else self.rng.integers(0, 255, (*SIZE, 3), np.uint8)
            for t in range(frames)
        ]
        made = make_clip(
            self.path,
            name,
            np.stack(images),
            own_points if points is None else points,
            own_boxes if boxes is None else boxes,
            len({i["vid_id"] for i in self.content["images"]}) + 1,
            **extra,
        )
        self.content["images"] += made[0]
        self.content["annotations"] += made[1]

    def write(self) -> dict:
        """Writes the annotation file; returns the config of the data set to wrap."""
        path = self.path / "annotations" / "Sub1_train.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.content))
        return dict(
            type="JhmdbDataset",
            data_root=str(self.path),
            ann_file="annotations/Sub1_train.json",
            data_prefix=dict(img=""),
        )


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(tmp_path)


@pytest.fixture(autouse=True)
def mmpose_scope():
    """Type names are looked up in mmpose's registries, as under its tools."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmpose"):
        yield
