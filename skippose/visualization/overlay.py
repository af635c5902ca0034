"""Gate masks, costs and poses drawn over frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from skippose.frames_pass import CallRecord

# From the palette of Okabe and Ito, which colour-blind people can tell apart.
COMPUTED = (230, 159, 0)
SKIPPED = (110, 110, 110)
PEOPLE = (
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)

Image = NDArray[np.uint8]


def gate_on_frame(
    record: CallRecord, clip: int, frame: int, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """One layer's mask at the resolution of the frame.

    Args:
        record: of a pass that kept masks.
        clip: which clip of the batch.
        frame: which frame of the clip.
        size: (H, W) of the frame.

    Returns:
        (H, W) bool: where the layer was computed.

    Raises:
        ValueError: if the pass did not keep masks, or the layer has no gate.
    """
    if record.gate is None:
        raise ValueError("no mask was kept: run in clips(..., keep_masks=True), on a gated layer")
    return _to_frame(record.gate[clip, frame, 0].cpu().numpy().astype(np.uint8), record, size) > 0


def _to_frame(blocks: NDArray[Any], record: CallRecord, size: tuple[int, int]) -> NDArray[Any]:
    """Values of blocks (Hb, Wb) over the outputs, and those over the frame (H, W)."""
    rows, columns = record.block
    outputs = blocks.repeat(rows, 0).repeat(columns, 1)
    height, width = record.out_size
    return cv2.resize(outputs[:height, :width], size[::-1], interpolation=cv2.INTER_NEAREST)


def cost_map(
    records: Iterable[CallRecord], clip: int, frame: int, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Where the MACs of one frame went: (H, W), the share of the gated layers' MACs, 0 to 1."""
    whole = 0.0
    # Layers on the same grid are added up as blocks: a resize for each grid, not for each layer.
    grids: dict[object, tuple[CallRecord, NDArray[np.float32]]] = {}
    for record in records:
        if record.gate is not None:
            open_blocks = record.gate[clip, frame, 0].cpu().numpy()
            key = (open_blocks.shape, record.block, record.out_size)
            _, spent = grids.setdefault(key, (record, np.zeros(open_blocks.shape, np.float32)))
            spent += np.float32(record.macs) * open_blocks
            whole += record.macs
    total = np.zeros(size, np.float32)
    for record, spent in grids.values():
        total += _to_frame(spent, record, size)
    return total / np.float32(whole) if whole else total


def in_image(
    values: NDArray[Any], matrix: NDArray[np.floating], size: tuple[int, int]
) -> NDArray[Any]:
    """What was found on a crop, at the image's resolution: every pixel gets its crop pixel's value.

    Args:
        values: (h, w), on the crop.
        matrix: (2, 3) from the image's pixels to the crop's; it may flip, turn and scale.
        size: (H, W) of the image.

    Returns:
        (H, W): ``values`` at the crop pixel that is nearest; 0 (False) outside of the crop.
    """
    out = np.zeros(size, values.dtype)
    height, width = values.shape
    corners = np.array([[-0.5, -0.5], [width, -0.5], [-0.5, height], [width, height]])
    inverse = cv2.invertAffineTransform(np.asarray(matrix, np.float64))
    reach = corners @ inverse[:, :2].T + inverse[:, 2]
    low = np.clip(np.floor(reach.min(0)).astype(int), 0, size[::-1])
    high = np.clip(np.ceil(reach.max(0)).astype(int) + 1, 0, size[::-1])
    x, y = np.arange(low[0], high[0]), np.arange(low[1], high[1])[:, None]
    column = np.rint(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).astype(int)
    row = np.rint(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = values[row.clip(0, height - 1), column.clip(0, width - 1)]
    out[low[1] : high[1], low[0] : high[0]] = np.where(inside, found, out.dtype.type(0))
    return out


def overlay_gate(frame: Image, mask: NDArray[np.bool_], alpha: float = 0.5) -> Image:
    """The frame, (H, W, 3) RGB, dimmed where skipped and tinted where computed."""
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    tinted = cv2.addWeighted(frame, 1 - alpha, np.full_like(frame, COMPUTED), alpha, 0)
    return np.where(mask[..., None], tinted, (grey * 0.6).astype(np.uint8))


def overlay_heat(frame: Image, heat: NDArray[np.float32], alpha: float = 0.6) -> Image:
    """The frame under a heat map, (H, W) from 0 to 1, in the colours of viridis."""
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(frame, 1 - alpha, colours, alpha, 0).astype(np.uint8)


def draw_pose(
    image: Image,
    keypoints: NDArray[np.floating],
    scores: NDArray[np.floating],
    links: Sequence[Sequence[int]],
    colour: tuple[int, int, int] = PEOPLE[0],
    threshold: float = 0.3,
) -> None:
    """Draws a pose into an image, in place.

    Args:
        image: (H, W, 3); ``colour`` is in its order of channels.
        keypoints: (K, 2) x, y in pixels.
        scores: (K,); joints below the threshold are left out.
        links: pairs of joints that are joined.
        colour: of the links.
        threshold: of the scores.
    """
    width = max(1, round(min(image.shape[:2]) / 160))
    points = np.rint(np.nan_to_num(keypoints)).astype(int).tolist()
    seen = (scores >= threshold).tolist()
    for a, b in links:
        if seen[a] and seen[b]:
            if width > 1:
                cv2.line(image, points[a], points[b], (0, 0, 0), width + 2, cv2.LINE_AA)
            cv2.line(image, points[a], points[b], colour, width, cv2.LINE_AA)
    for point, there in zip(points, seen, strict=True):
        if there:
            cv2.circle(image, point, width, (255, 255, 255), -1, cv2.LINE_AA)
