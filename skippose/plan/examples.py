"""Small networks by which operators are tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Example(NamedTuple):
    """A small network that has an operator in its plan.

    Attributes:
        net: reads a frame of three channels; has a convolution that can be gated.
        shape: (S, C, H, W) of a frame.
    """

    net: nn.Module
    shape: tuple[int, int, int, int] = (2, 3, 32, 28)


def layer(kind: Callable[..., nn.Module], *arguments: Any, **named: Any) -> nn.Module:
    """A layer with weights, of frames in float32 on a CPU whatever torch's defaults are."""
    return kind(*arguments, **named, dtype=torch.float32, device="cpu")


class Body(nn.Module):
    """A convolution, a function of its result, and a convolution of that, for examples.

    Args:
        function: (S, 8, H, W) to (S, ``channels``, H', W').
        channels: of its result.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.function = function
        self.first = layer(nn.Conv2d, 3, 8, 3, padding=1)
        self.last = layer(nn.Conv2d, channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(S, 3, H, W) to (S, 5, H', W')."""
        return self.last(self.function(self.first(x)))
