"""Where a convolution reads and writes: sizes, padding and receptive fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ContextDecorator, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ConvGeometry:
    """The shape of a 2-D convolution, without its weights.

    Pairs are (vertical, horizontal); ``padding`` is (left, right, top, bottom), the order that
    :func:`torch.nn.functional.pad` takes.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvGeometry:
        """The geometry of a module, string paddings (``'same'``, ``'valid'``) resolved."""
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        return cls(
            kernel_size=(conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            padding=(left, right, top, bottom),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            padding_mode=conv.padding_mode,
        )

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of a receptive field in pixels, dilation included."""
        return (
            self.dilation[0] * (self.kernel_size[0] - 1) + 1,
            self.dilation[1] * (self.kernel_size[1] - 1) + 1,
        )

    def ungrouped(self) -> ConvGeometry:
        """The same places, all channels together."""
        return replace(self, groups=1)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the input to (H', W') of the output.

        Raises:
            ValueError: if the input is smaller than the kernel.
        """
        left, right, top, bottom = self.padding
        out_h = (height + top + bottom - self.extent[0]) // self.stride[0] + 1
        out_w = (width + left + right - self.extent[1]) // self.stride[1] + 1
        if out_h < 1 or out_w < 1:
            raise ValueError(
                f"an input of {height}x{width} is smaller than the convolution's receptive field "
                f"of {self.extent[0]}x{self.extent[1]} with padding {self.padding}"
            )
        return out_h, out_w

    def pad(self, x: Tensor) -> Tensor:
        """(N, C, H, W) with the convolution's own padding made explicit."""
        if not any(self.padding):
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self.padding, mode=mode)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``w * x + b``: (N, C, H, W) to (N, O, H', W')."""
        left, right, top, bottom = self.padding
        symmetric = left == right and top == bottom
        if self.padding_mode == "zeros" and symmetric:
            padding = (top, left)
        else:
            x, padding = self.pad(x), (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def columns(self, x: Tensor) -> Tensor:
        """Every receptive field as a column: (N, C, H, W) to (N, C, K, L), L = H'·W'."""
        n, c = x.shape[:2]
        padded = self.pad(x)
        flat = F.unfold(padded, self.kernel_size, self.dilation, padding=0, stride=self.stride)
        return flat.reshape(n, c, self.kernel_size[0] * self.kernel_size[1], -1)

    def patches(self, x: Tensor, block: tuple[int, int]) -> Tensor:
        """The input that each output block reads, halo included.

        Args:
            x: (N, C, H, W).
            block: output rows and columns per block.

        Returns:
            (N, Hb, Wb, C, Ph, Pw), a view of the padded input where that is possible. Where a
            ragged last block ends beyond the map, its patch is filled up with zeros that no
            existing output reads.
        """
        out_h, out_w = self.out_size(*x.shape[-2:])
        blocks = (-(-out_h // block[0]), -(-out_w // block[1]))
        step = (block[0] * self.stride[0], block[1] * self.stride[1])
        size = tuple((block[i] - 1) * self.stride[i] + self.extent[i] for i in (0, 1))
        padded = self.pad(x)
        missing = [(blocks[i] - 1) * step[i] + size[i] - padded.shape[2 + i] for i in (0, 1)]
        # Negative amounts crop the rows and columns that no output reads.
        padded = F.pad(padded, (0, missing[1], 0, missing[0]))
        windows = padded.unfold(2, size[0], step[0]).unfold(3, size[1], step[1])
        return windows.permute(0, 2, 3, 1, 4, 5)


@dataclass(frozen=True)
class Convolution:
    """A convolution as a value: weights (O, C / groups, kh, kw), bias (O,) or None, geometry."""

    weight: Tensor
    bias: Tensor | None
    geometry: ConvGeometry

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Convolution:
        """The convolution of a module, sharing its parameters."""
        return cls(conv.weight, conv.bias, ConvGeometry.of(conv))

    def __call__(self, x: Tensor, bias: bool = True) -> Tensor:
        """``w * x + b``, or ``w * x``: (N, C, H, W) to (N, O, H', W')."""
        return self.geometry.convolve(x, self.weight, self.bias if bias else None)

    def update(self, change: Tensor) -> Tensor:
        """``w * change``, in the change's precision: (N, C, H, W) to (N, O, H', W').

        Changes come in float32 or better. Under autocast this is autocast's convolution: a clip
        in training is short. Without it, rounding every update of a half-precision stream would
        be a random walk of the running sum.
        """
        weight = self.weight if autocasts(change) else self.weight.to(change.dtype)
        with without_tf32(change):
            return self.geometry.convolve(change, weight)

    def start(self, like: Tensor) -> Tensor:
        """The bias, or zero, as (1 or O, 1, 1) in the accumulators' dtype."""
        dtype = accumulation_dtype(like.dtype)
        bias = like.new_zeros(1, dtype=dtype) if self.bias is None else self.bias.to(dtype)
        return bias[:, None, None]

    def unpadded(self) -> Convolution:
        """The same for inputs whose padding is already there."""
        geometry = replace(self.geometry, padding=(0, 0, 0, 0))
        return Convolution(self.weight, self.bias, geometry)


def autocasts(x: Tensor) -> bool:
    """Whether convolutions of ``x`` run in autocast's precision here."""
    try:
        return torch.is_autocast_enabled(x.device.type)
    except TypeError:  # torch before 2.4
        return torch.is_autocast_cpu_enabled() if x.is_cpu else torch.is_autocast_enabled()


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Gates compute in float32 whatever the network's precision."""
    # Nothing where nothing is to be turned off: an exported program would keep it as an operation.
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


@contextmanager
def without_tf32(x: Tensor) -> Iterator[None]:
    """Convolutions of float32 on a GPU in float32 proper, unless a gradient is recorded.

    By default torch lets cuDNN round inputs to TF32's 10 bits. Updates rounded so would not add up
    to the frame either, and a stream that sums them would drift; a clip in training is short.
    """
    if not x.is_cuda or x.dtype != torch.float32 or torch.is_grad_enabled():
        yield
        return
    # torch 2.9 names each operation's precision, and refuses to read the older switch where they
    # differ.
    cudnn = torch.backends.cudnn
    conv = getattr(cudnn, "conv", None)
    old = conv is None
    owner, name = (cudnn, "allow_tf32") if old else (conv, "fp32_precision")
    usual = getattr(owner, name)
    setattr(owner, name, False if old else "ieee")
    try:
        yield
    finally:
        setattr(owner, name, usual)


class no_grad(ContextDecorator):
    """``torch.no_grad``; nothing where no gradient is recorded anyway.

    An exported program would keep every switch, and exporting takes time in their square.
    """

    def _recreate_cm(self) -> no_grad:
        return no_grad()

    def __enter__(self) -> None:
        self._recorded = torch.is_grad_enabled()
        if self._recorded:
            torch.set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        if self._recorded:
            torch.set_grad_enabled(True)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Norms and running sums are float32, or float64 where the network is float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
