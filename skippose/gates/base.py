"""What all gates have in common: blocks, sources and binding to a layer."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal, TypeVar

from torch import Tensor, nn

from skippose.ops.gate_spec import Change, GateSpec, Side
from skippose.ops.geometry import Convolution
from skippose.ops.masks import block_for_map

Source = Literal["residual", "frame"]
BlockMode = Literal["scaled", "fixed"]


GATES: dict[str, type[Gate]] = {}
"""The gates that a config can name; :func:`register_gate` adds to them."""


Kind = TypeVar("Kind", bound="type[Gate]")


def register_gate(kind: Kind) -> Kind:
    """Lets :func:`skippose.build_gate` and configs make a gate by the name of its class.

    A class decorator, for gates of this package and of others alike.

    Raises:
        ValueError: if another class has the name already.
    """
    other = GATES.setdefault(kind.__name__, kind)
    if other is not kind:
        raise ValueError(f"a gate {kind.__name__!r} is registered already: {other}")
    return kind


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises ValueError unless ``value`` is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


class Gate(nn.Module):
    """Decides where a convolution runs.

    A gate that a user makes is a template: :meth:`for_layer` gives each convolution a gate of its
    own. The contract with the operation is :class:`skippose.ops.contract.GateRule`.

    A new gate is one file: a subclass under :func:`register_gate` with :meth:`on_columns` (the
    plain formula), :meth:`score` and :meth:`decide`. Streams compute its layers on whole maps then,
    through these methods. One that states what it compares, in :meth:`spec`, is run by every
    backend that has its kind of score.

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

    sees: ClassVar[Side] = "input"
    """Which side's change :meth:`score` is made from."""

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
        # A template is on the CPU, where it was made.
        return copy.deepcopy(self).to(conv.weight.device)

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

    def spec(self, conv: Convolution, change: Change) -> GateSpec | None:
        """What the gate compares, in evaluation; None where no spec says it.

        A subclass that overrides :meth:`score`, :meth:`decide` or another method that a spec
        stands for must override this too, or its base class's spec is not taken for its own
        (:func:`skippose.ops.gate_spec.spec_of`).

        Args:
            conv: the convolution that the gate is bound to.
            change: what its scores are made from.
        """
        return None

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

    def state_kind(self) -> dict[str, object]:
        """The settings that decide what a stream remembers for this gate; thresholds do not."""
        names = ("type", "block", "block_mode", "source")
        return {name: value for name, value in self.settings().items() if name in names}

    @classmethod
    def examples(cls) -> dict[str, Gate]:
        """Some gates of this class by a short name, whose thresholds open part of a moving map.

        Tests run every example of every registered gate through every form and backend.
        """
        return {}

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.settings().items() if k != "type")
