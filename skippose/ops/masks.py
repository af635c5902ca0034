"""Gate masks: blocks, their pooling, and where a frame changed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from skippose.ops.geometry import ConvGeometry, no_grad


def pool_blocks(score: Tensor, block: tuple[int, int]) -> Tensor:
    """Maximum over each block: (N, 1, H', W') to (N, 1, Hb, Wb); last blocks may be ragged."""
    if block == (1, 1):
        return score
    return F.max_pool2d(score, block, block, ceil_mode=True)


def expand_blocks(mask: Tensor, block: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Blocks back to outputs: (..., Hb, Wb) to (..., H', W'), differentiable."""
    if block[0] > 1:
        mask = mask.repeat_interleave(block[0], -2)
    if block[1] > 1:
        mask = mask.repeat_interleave(block[1], -1)
    return mask[..., : size[0], : size[1]]


@no_grad()
def changed_outputs(x: Tensor, x_before: Tensor, geometry: ConvGeometry) -> Tensor:
    """Outputs whose receptive field differs from the frame before in any element.

    Args:
        x: (N, C, H, W), this frame.
        x_before: the same shape, the frame before.

    Returns:
        (N, 1, H', W') bool. A NaN counts as changed.
    """
    # Differences by their largest, which is several times faster than comparing every element.
    largest = (x - x_before).abs_().amax(1, keepdim=True)
    return dilate((largest != 0).float(), geometry) > 0


def dilate(pixels: Tensor, geometry: ConvGeometry) -> Tensor:
    """Maximum over each output's receptive field: (N, 1, H, W) to (N, 1, H', W').

    Padding repeats or adds pixels as the convolution's own padding does; zeros are never a maximum
    of the non-negative maps that this is used for.
    """
    return F.max_pool2d(
        geometry.pad(pixels), geometry.kernel_size, geometry.stride, 0, geometry.dilation
    )


def block_for_map(
    block: int, mode: str, out_size: tuple[int, int], frame_size: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of outputs that one gate decides for.

    ``'fixed'``: ``block`` outputs on every map (the paper). ``'scaled'``: ``block`` on the map at a
    quarter of the frame's size and proportionally elsewhere, at least one, so that cells cover
    the same pixels of the frame in every branch of an HRNet.

    Args:
        block: the block size of the configuration.
        mode: ``'scaled'`` or ``'fixed'``.
        out_size: (H', W') of the layer's output.
        frame_size: (H, W) of the first input that the network sees.
    """
    if mode == "fixed":
        return block, block
    rows, columns = (max(1, round(4 * block * out_size[i] / frame_size[i])) for i in (0, 1))
    return rows, columns
