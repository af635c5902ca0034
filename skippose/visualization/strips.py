"""Frames side by side, with captions and a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from skippose.visualization.overlay import COMPUTED, SKIPPED, Image

Legend = Sequence[tuple[str, tuple[int, int, int]]]

GATE_LEGEND: Legend = (("computed", COMPUTED), ("skipped", SKIPPED))
BAR = 20  # pixels of a line of text
_INK = (40, 40, 40)


def viridis(value: float) -> tuple[int, int, int]:
    """A colour of viridis, RGB."""
    pixel = np.full((1, 1), 255 * value, np.uint8)
    blue, green, red = cv2.applyColorMap(pixel, cv2.COLORMAP_VIRIDIS)[0, 0].tolist()
    return red, green, blue


COST_LEGEND: Legend = (
    ("no layer", viridis(0.0)),
    ("half of the MACs", viridis(0.5)),
    ("all layers", viridis(1.0)),
)


def strip(
    images: Sequence[Image], title: str = "", captions: Sequence[str] = (), legend: Legend = ()
) -> Image:
    """Frames (H, W, 3) RGB side by side, at their own size, under a line with title and legend.

    The frames are the last H rows, pixel for pixel. Text that does not fit is left out.

    Args:
        images: the frames.
        title: at the left of the line above.
        captions: one for each frame, in a second line; none by default.
        legend: names and colours, at the right of the title.
    """
    rows = [np.hstack(list(images))]
    width = rows[0].shape[1]
    if captions:
        line = text_bar(width)
        for n, caption in enumerate(captions):
            put_text(line, caption, n * images[0].shape[1] + 4, images[n].shape[1] - 4)
        rows.insert(0, line)
    if title or legend:
        line = text_bar(width)
        end = put_text(line, title, 4, width - 4)
        draw_legend(line, legend, end + 24)
        rows.insert(0, line)
    return np.vstack(rows)


def text_bar(width: int, height: int = BAR) -> Image:
    """A white line (height, width, 3)."""
    return np.full((height, width, 3), 255, np.uint8)


def put_text(image: Image, text: str, x: int, room: int, y: int = 14, size: float = 0.4) -> int:
    """Writes text as far as there is room; returns the x at which it ends."""
    while text and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0] > room:
        text = text[:-1]
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
    return x + int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0])


def draw_legend(image: Image, legend: Legend, x: int, y: int = 14) -> None:
    """Swatches with their names, as many as fit."""
    for name, colour in legend:
        end = x + 14 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0]
        if end > image.shape[1] - 4:
            return
        cv2.rectangle(image, (x, y - 9), (x + 9, y), colour, -1)
        cv2.rectangle(image, (x, y - 9), (x + 9, y), _INK, 1)
        x = put_text(image, name, x + 14, end, y) + 16
