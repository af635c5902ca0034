"""What the operation needs of a gate, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from skippose.ops.gate_spec import Change, GateSpec, Side, spec_of
from skippose.ops.geometry import Convolution
from skippose.ops.masks import expand_blocks, pool_blocks

Reference = Literal["hold", "previous"]
"""``hold``: the change since an output was last computed. ``previous``: since the last frame."""

REFERENCES: tuple[Reference, ...] = ("hold", "previous")


class GateRule(Protocol):
    """A gate as the operation sees it; :mod:`skippose.gates` has the real ones.

    A change is a difference of two inputs of the layer (or the frame itself, by ``source``). Scores
    are one channel; a gate opens a block by the largest score in it.
    """

    @property
    def sees(self) -> Side:
        """Which side's change :meth:`score` is made from."""
        ...

    @property
    def source(self) -> Literal["residual", "frame"]: ...

    @property
    def samples(self) -> bool:
        """Whether decisions are drawn by chance now: the same score may open a gate or not."""
        ...

    def spec(self, conv: Convolution, change: Change) -> GateSpec | None:
        """What the gate compares as a value; :attr:`GatedConvolution.spec` asks for it."""
        ...

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        """The plain formula: (N, C, K, L) columns and (N, O, L) = w * change to (N, L) scores."""
        ...

    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        """The same on images, padded as ``conv`` asks for.

        (N, C, H, W) to (N, 1, H', W'); where it sees the output from w * change, (N, O, H', W').
        """
        ...

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        """(N, 1, Hb, Wb) block scores and (N,) scales to gates: bool, or float with gradient."""
        ...

    def measure(self, x: Tensor, response: Tensor) -> Tensor | None:
        """The layer's own magnitude at a dense frame: (N, C, H, W) and w * x to (N,), or None."""
        ...


class LearnedRule(GateRule, Protocol):
    """A gate whose score is learned: the noise of many frames is drawn at once.

    With rectified changes that is so where no change depends on an earlier gate.
    """

    def offsets(self, like: Tensor) -> Tensor:
        """What is added to block scores: the same shape, drawn in the order of its elements."""
        ...

    def decide(self, score: Tensor, scale: Tensor | None, offsets: Tensor | None = None) -> Tensor:
        """Opens where ``score + offsets > 0``; by default it draws them. Any shape."""
        ...


@dataclass(frozen=True)
class GatedConvolution:
    """One layer's operation, state apart.

    Attributes:
        conv: the convolution.
        gate: what decides where it runs.
        reference: what a change is measured against.
        block: (rows, columns) of outputs per decision.
    """

    conv: Convolution
    gate: GateRule
    reference: Reference = "hold"
    block: tuple[int, int] = (1, 1)

    def out_size(self, x: Tensor) -> tuple[int, int]:
        """(H', W') for an input (..., H, W)."""
        return self.conv.geometry.out_size(x.shape[-2], x.shape[-1])

    def patches(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the input of each block with its halo, (N, Hb, Wb, C, Ph, Pw)."""
        return self.conv.geometry.patches(x, self.block)

    def score(self, change: Tensor) -> Tensor:
        """The gate's block scores of a change: (N, ...) to (N, 1, Hb, Wb)."""
        return self.pool(self.gate.score(change, self.conv))

    def pool(self, score: Tensor) -> Tensor:
        """A block's score is its largest: (N, 1, H', W') to (N, 1, Hb, Wb)."""
        return pool_blocks(score, self.block)

    def patch_score(self, patches: Tensor, held: Tensor, size: tuple[int, int]) -> Tensor:
        """Block scores of the change between two sets of patches, for gates that hold patches.

        Args:
            patches: (N, Hb, Wb, C, Ph, Pw), this frame's.
            held: the same shape, what each block was last computed from.
            size: (H', W'), the outputs that exist; a ragged last block's others do not count.

        Returns:
            (N, 1, Hb, Wb).
        """
        count, rows, columns, *shape = patches.shape
        change = (patches - held).reshape(-1, *shape)
        score = self.gate.score(change, self.conv.unpadded())
        score = score.reshape(count, rows, columns, *self.block)
        across = (rows * self.block[0], columns * self.block[1])
        if across != size:
            exists = score.new_ones(size, dtype=torch.bool)
            exists = F.pad(exists, (0, across[1] - size[1], 0, across[0] - size[0]))
            exists = exists.view(rows, self.block[0], columns, self.block[1]).transpose(1, 2)
            score = score.masked_fill(~exists, -math.inf)
        return score.amax((-2, -1))[:, None]

    def all_open(self, count: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """The gates of dense frames: (count, 1, Hb, Wb) bool."""
        blocks = (-(-size[0] // self.block[0]), -(-size[1] // self.block[1]))
        return torch.ones((count, 1, *blocks), dtype=torch.bool, device=device)

    def expand(self, gate: Tensor, size: tuple[int, int]) -> Tensor:
        """(..., Hb, Wb) to (..., H', W')."""
        return expand_blocks(gate, self.block, size)

    def close_unchanged(self, gate: Tensor, changed: Tensor) -> Tensor:
        """Closes blocks none of whose outputs, (N, 1, H', W') bool, changed."""
        return gate * (pool_blocks(changed.float(), self.block) > 0)

    @property
    def change(self) -> Change:
        """What the gate's scores are made from."""
        if self.gate.source == "frame":
            return "none"
        return "since held" if self.reference == "hold" else "since the frame before"

    @cached_property
    def spec(self) -> GateSpec | None:
        """What the gate compares; None where it must be asked through its own methods."""
        return spec_of(self.gate, self.conv, self.change)

    @property
    def gate_name(self) -> str:
        """What an error calls the gate: its class."""
        return type(self.gate).__name__

    @property
    def sees(self) -> Side:
        """Which side's change a score is made from."""
        return self.gate.sees if self.spec is None else self.spec.score.of

    @property
    def holds_score(self) -> bool:
        """Whether the score of the input that each output was last computed from is kept."""
        additive = self.spec is not None and self.spec.score.additive
        return additive and self.change == "since held"

    @property
    def holds_patches(self) -> bool:
        """Whether the gate compares with the input that each block was last computed from."""
        return self.change == "since held" and self.sees == "input" and not self.holds_score

    @property
    def decides_at_once(self) -> bool:
        """Whether all frames of a clip can be decided together; see :class:`LearnedRule`."""
        learned = self.spec is not None and self.spec.score.learned
        return learned and not self.holds_patches

    @property
    def must_know_changed(self) -> bool:
        """Whether the gate must be told where nothing changed.

        A score that is zero there by itself, or what it was when the gate stayed closed, opens
        nothing; any other may open a gate, and so may chance.
        """
        at_rest = self.spec is not None and self.spec.score.zero_at_rest
        return not at_rest or self.change == "none" or self.gate.samples


@dataclass
class SkipState:
    """What one layer remembers of its slots. Fields that a gate does not need are None.

    Attributes:
        z: (S, O, H', W'), the last output; float32 or better for ``previous``.
        scale: (S,), the magnitude that relative thresholds refer to.
        x: (S, C, H, W), the last input.
        patches: (S, Hb, Wb, C, Ph, Pw), the input each block was last computed from (``hold``,
            gates that see the input and are not additive).
        linear: (S, 1, H', W'), the score of x where last computed (``hold``, additive scores).
    """

    z: Tensor
    scale: Tensor | None = None
    x: Tensor | None = None
    patches: Tensor | None = None
    linear: Tensor | None = None


def kept(tensor: Tensor | None) -> Tensor:
    """A field that a layer's state must have.

    Raises:
        ValueError: if it is None.
    """
    if tensor is None:
        raise ValueError(
            "the given state lacks a field that this gate and reference need; "
            "it was made by a layer of another configuration"
        )
    return tensor


def stack_gates(gates: Sequence[Tensor]) -> Tensor:
    """Gates of single frames, (B, ...), along time: (B, T, ...).

    Dense frames come as bool among float gates that carry a gradient; the stack is float then.
    """
    soft = [gate.dtype for gate in gates if gate.is_floating_point()]
    return torch.stack([gate.to(soft[0]) if soft else gate for gate in gates], 1)


class SkipResult(NamedTuple):
    """One layer's answer; (B, T, ...) from the clip form, (B, ...) from the step form.

    Attributes:
        z: (..., O, H', W') outputs.
        gate: (..., 1, Hb, Wb), one value per block: bool, or float where it carries a gradient.
        changed: (..., 1, H', W') bool, outputs whose receptive field changed since the frame
            before; None for gates that spend no MACs of their own and need not know.
        dense: (...) bool, frames computed in full whatever the gate says.
        state: what the next frame needs; None where it was not asked for.
    """

    z: Tensor
    gate: Tensor
    changed: Tensor | None
    dense: Tensor
    state: SkipState | None
