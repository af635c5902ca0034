"""Gate masks and costs drawn over frames."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from skippose.frames_pass import CallRecord
from skippose.ops.masks import expand_blocks

# From the palette of Okabe and Ito, which colour-blind people can tell apart.
COMPUTED = (230, 159, 0)

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
    mask = expand_blocks(record.gate[clip, frame, 0], record.block, record.out_size)
    pixels = mask.cpu().numpy().astype(np.uint8)
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def cost_map(
    records: Iterable[CallRecord], clip: int, frame: int, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Where the MACs of one frame went: (H, W), the share of the gated layers' MACs, 0 to 1."""
    spent = np.zeros(size, np.float32)
    whole = 0.0
    for record in records:
        if record.gate is not None:
            spent += record.macs * gate_on_frame(record, clip, frame, size)
            whole += record.macs
    return spent / whole if whole else spent


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
