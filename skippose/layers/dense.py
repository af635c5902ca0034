"""Layers that are never skipped: their cost, and random ones that must not flicker."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skippose.layers import active
from skippose.layers.active import active_pass, inside_backward

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.conv._ConvTransposeNd, nn.Linear)


def count_macs(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> None:
    """A forward hook, with keywords, that reports the MACs of a layer that is not gated."""
    run = active_pass()
    if run is None:
        return
    x = next(iter((*args, *kwargs.values())))
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        locations = x.numel() // layer.in_channels  # each meets the whole kernel
    elif isinstance(layer, nn.Linear):
        locations = output.numel() // layer.out_features
    else:
        locations = output.numel() // layer.out_channels
    weight = layer.get_parameter("weight")
    active.outside_compiler(run.count_dense, layer, x, locations * weight.numel())


class ClipConsistent(nn.Module):
    """A multiplicative random layer (dropout, drop path) that draws once per clip.

    A mask that changes from frame to frame would look like motion to every gate behind it.

    Args:
        module: the random layer; it must multiply its input by a random map.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module: nn.Module = module
        self.training = module.training
        self._drew_per_clip = False  # in the last forward pass

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a network may read its dropout's `p`
            return getattr(super().__getattr__("module"), name)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        run = active_pass()
        if run is None:
            if self._drew_per_clip and inside_backward():
                raise RuntimeError(
                    "activation checkpointing recomputes a random layer outside the clip it drew "
                    "for, which would give wrong gradients; use skippose.context.checkpoint"
                )
            self._drew_per_clip = False
            return self.module(x)
        self._drew_per_clip = self.training
        if not self.training:
            return self.module(x)
        return active.outside_compiler(run.repeat_draw, self.module, x)


def is_random(module: nn.Module) -> bool:
    """Whether a module multiplies by a random map in training."""
    multiplicative = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    # mmcv, timm and torchvision have a class of one of these names each; none is a dependency here.
    named = type(module).__name__ in ("DropPath", "StochasticDepth")
    return isinstance(module, multiplicative) or named


def draw_once(module: nn.Module, x: Tensor, clips: int) -> Tensor:
    """Applies one draw of ``module`` per clip: (clips * T, ...) to the same shape."""
    ones = torch.ones((clips, *x.shape[1:]), dtype=x.dtype, device=x.device)
    return x * module(ones).repeat_interleave(x.shape[0] // clips, 0)
