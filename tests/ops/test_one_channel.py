"""The convolution to one channel against torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skippose.ops import ConvGeometry
from skippose.ops.one_channel import convolve_to_one

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


def same(x: Tensor, weight: Tensor, geometry: ConvGeometry, expected: Tensor) -> None:
    """Values and gradients."""
    found = convolve_to_one(x, weight, geometry)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, (x, weight), grad),
        torch.autograd.grad(expected, (x, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@settings(max_examples=150, deadline=None)
@given(
    kernel=pairs,
    stride=pairs,
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    channels=st.integers(1, 20),
    batch=st.integers(1, 3),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_it_is_the_convolution(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    channels: int,
    batch: int,
    extra: tuple[int, int],
    channels_last: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    size = [dilation[i] * (kernel[i] - 1) + 1 + extra[i] for i in (0, 1)]
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(1, channels, *kernel, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    sides = (padding[1], padding[1], padding[0], padding[0])
    geometry = ConvGeometry(kernel, stride, sides, dilation, groups=channels)
    same(x, weight, geometry, F.conv2d(x, weight, None, stride, padding, dilation))


def test_padding_that_is_uneven_or_not_zero() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 7, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 12, 3, 3, dtype=torch.float64, requires_grad=True)
    for mode in ("zeros", "reflect", "replicate", "circular"):
        geometry = ConvGeometry((3, 3), padding=(2, 1, 0, 1), padding_mode=mode)
        padded = F.pad(x, (2, 1, 0, 1), mode="constant" if mode == "zeros" else mode)
        same(x, weight, geometry, F.conv2d(padded, weight))


def test_only_what_is_asked_for_is_differentiated() -> None:
    x, weight = torch.randn(1, 9, 5, 5), torch.randn(1, 9, 3, 3, requires_grad=True)
    convolve_to_one(x, weight, ConvGeometry((3, 3))).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad[0, :, 0, 0], x[0, :, :3, :3].sum((1, 2)))


def test_layouts_whose_rows_and_columns_are_apart() -> None:
    """As frames of a clip may lie: a view of all pixels as one axis is then a copy."""
    values = torch.randn(2, 2, 3, 2, dtype=torch.float64)
    x = torch.empty_strided(values.shape, (2, 12, 4, 1), dtype=values.dtype).copy_(values)
    x.requires_grad_()
    weight = torch.randn(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    geometry = ConvGeometry(kernel_size=(1, 1), stride=(2, 1))
    same(x, weight, geometry, F.conv2d(x, weight, stride=(2, 1)))
