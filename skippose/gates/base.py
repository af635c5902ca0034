"""What all gates have in common: blocks, sources and binding to a layer."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from skippose.ops.geometry import Convolution, autocasts
from skippose.ops.masks import block_for_map

Source = Literal["residual", "frame"]
BlockMode = Literal["scaled", "fixed"]


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises ValueError unless ``value`` is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


class Gate(nn.Module):
    """Decides where a convolution runs.

    A gate that a user makes is a template: :meth:`for_layer` gives each convolution a gate of its
    own. The contract with the operation is :class:`skippose.ops.contract.GateRule`.

    Args:
        block: outputs per side of a block that opens or closes as one.
        block_mode: ``'scaled'``: the block is meant on the map at a quarter of the frame's size
            and scales with the map, so that cells cover the same pixels in every branch (block=1
            is 4x4 outputs on a map at the frame's own size);
            ``'fixed'``: the same number of outputs on every map.
        source: ``'residual'``: the gate looks at a change; ``'frame'``: at the input itself.

    Raises:
        ValueError: for a block below 1, an unknown mode or an unknown source.
    """

    sees: Literal["input", "output", "linear", "magnitude"]

    def __init__(
        self, block: int = 1, block_mode: BlockMode = "scaled", source: Source = "residual"
    ) -> None:
        super().__init__()
        if not isinstance(block, int) or block < 1:
            raise ValueError(f"block must be a whole number of outputs, at least 1, got {block!r}")
        one_of("block_mode", block_mode, ("scaled", "fixed"))
        one_of("source", source, ("residual", "frame"))
        self.block = block
        self.block_mode = block_mode
        self.source: Source = source

    def for_layer(self, conv: nn.Conv2d) -> Gate:
        """A gate for one convolution, with this one's settings."""
        return copy.deepcopy(self)

    def block_on(self, out_size: tuple[int, int], frame_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of a block on a map of ``out_size`` for a frame of ``frame_size``."""
        return block_for_map(self.block, self.block_mode, out_size, frame_size)

    @property
    def always_open(self) -> bool:
        """Whether the layer runs densely now (norm gates in training, unless they take part)."""
        return False

    @property
    def samples(self) -> bool:
        """Whether decisions are drawn by chance now."""
        return False

    @property
    def learns(self) -> bool:
        """Whether the gate loss reaches parameters of this gate."""
        return False

    def macs_per_output(self, conv: nn.Conv2d) -> int:
        """Multiply-accumulates that the gate itself spends on one output location."""
        return 0

    def additions_per_output(self, conv: nn.Conv2d) -> int:
        """Additions that a norm spends on one output location, listed beside the MACs."""
        return 0

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        """The plain formula: (N, C, K, L) changes and (N, O, L) responses to (N, L) scores."""
        raise NotImplementedError

    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        """The formula on images: (N, C, H, W), or (N, O, H', W') responses, to (N, 1, H', W')."""
        raise NotImplementedError

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        """(N, 1, Hb, Wb) scores to gates."""
        raise NotImplementedError

    def measure(self, x: Tensor, response: Tensor) -> Tensor | None:
        """The magnitude, (N,), that a relative threshold refers to; None where there is none."""
        return None

    def settings(self) -> dict[str, object]:
        """What :func:`skippose.build_gate` needs to make such a gate."""
        return {
            "type": type(self).__name__,
            "block": self.block,
            "block_mode": self.block_mode,
            "source": self.source,
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.settings().items() if k != "type")


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Gates compute in float32 whatever the network's precision."""
    # Nothing where nothing is to be turned off: an exported program would keep it as an operation.
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
