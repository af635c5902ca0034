"""What a gate compares, as a value: all that a fast form or a backend reads of a gate.

A gate opens an output where its *score* is above its *threshold*. The score is made from a
*change* of the layer's input or output. A gate states the three in a :class:`GateSpec`; one that
cannot is asked through its own methods instead, on whole maps.

A backend has one method for each kind of score and calls :meth:`Score.lower`, which calls the right
one; so there is no test of kinds anywhere, and a backend that lacks a kind says so by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from skippose.ops.geometry import (
    ConvGeometry,
    Convolution,
    accumulation_dtype,
    no_autocast,
    no_grad,
)
from skippose.ops.norms import channel_power, finish_norm, pair_power, window_power
from skippose.ops.one_channel import convolve_to_one

Change = Literal["since held", "since the frame before", "none"]
"""What a score is made from: the difference to the input that an output was last computed from, to
the frame before, or no difference, the frame itself."""

Side = Literal["input", "output"]
"""Which side of the convolution: its input, or ``w * x`` without bias."""

SCALE_FLOOR = 1e-3
"""Smallest magnitude a relative threshold refers to: a black frame must not open every gate."""

T = TypeVar("T", covariant=True)


class ScoreKinds(Protocol[T]):
    """What lowers scores: one method for each kind, named as :attr:`Score.kind` is."""

    def input_norm(self, score: InputNorm) -> T:
        """A norm of the input's change over the receptive field."""
        ...

    def output_norm(self, score: OutputNorm) -> T:
        """A norm of the output's change over its channels."""
        ...

    def linear(self, score: Linear) -> T:
        """One more convolution, to one channel."""
        ...


@dataclass(frozen=True, eq=False)
class Score(ABC):
    """A number for each output location; see the kinds below."""

    kind: ClassVar[str]
    of: ClassVar[Side] = "input"
    """Which side's change the score is made from."""
    zero_at_rest: ClassVar[bool] = False
    """Whether no change gives the score 0, or the one that did not open the gate before."""
    learned: ClassVar[bool] = False
    """Whether it has parameters, which a gradient goes to."""

    @property
    def additive(self) -> bool:
        """Whether the score of a difference is the difference of the scores."""
        return False

    def lower(self, kinds: ScoreKinds[T]) -> T:
        """What ``kinds`` makes of this kind of score.

        Raises:
            NotImplementedError: naming the kind, if ``kinds`` has no method for it.
        """
        method = getattr(kinds, self.kind, None)
        if method is None:
            raise NotImplementedError(f"scores of kind {self.kind!r}")
        made: T = method(self)
        return made

    @abstractmethod
    def on_maps(self, change: Tensor, geometry: ConvGeometry) -> Tensor:
        """(N, C, H, W), or (N, O, H', W') where :attr:`of` is the output, to (N, 1, H', W')."""

    def of_pairs(
        self, now: Tensor, before: Sequence[Tensor], geometry: ConvGeometry, buffer: Tensor
    ) -> Tensor:
        """Scores of the changes since K frames.

        Args:
            now: (N, C, H, W).
            before: K tensors of the same shape.
            geometry: of the convolution.
            buffer: of the same shape; may be overwritten.

        Returns:
            (K·N, 1, H', W').
        """
        return self.on_maps(torch.cat([now - x for x in before]), geometry)


@dataclass(frozen=True, eq=False)
class InputNorm(Score):
    """``gain · ‖d‖_p`` over a receptive field of N elements.

    Attributes:
        p: 1, 2 or ``math.inf``.
        normalize: the mean for p = 1 and the root mean square for p = 2; else raw sums.
        gain: a factor, a 0-d tensor; None for 1.
    """

    p: float
    normalize: bool
    gain: Tensor | None = None

    kind = "input_norm"
    zero_at_rest = True

    def on_maps(self, change: Tensor, geometry: ConvGeometry) -> Tensor:
        return self.finish(channel_power(change, self.p), geometry, change.shape[1])

    def of_pairs(
        self, now: Tensor, before: Sequence[Tensor], geometry: ConvGeometry, buffer: Tensor
    ) -> Tensor:
        # Nothing is differentiated, and no difference is kept.
        powers = [pair_power(now.detach(), x.detach(), self.p, buffer) for x in before]
        return self.finish(torch.cat(powers), geometry, now.shape[1])

    def finish(self, power: Tensor, geometry: ConvGeometry, channels: int) -> Tensor:
        """From powers summed over channels, (N, 1, H, W), to scores, (N, 1, H', W')."""
        with no_autocast(power):
            count = channels * geometry.kernel_size[0] * geometry.kernel_size[1]
            power = window_power(power, geometry, self.p)
            norm = finish_norm(power, self.p, count, self.normalize)
            return norm if self.gain is None else norm * self.gain


@dataclass(frozen=True, eq=False)
class OutputNorm(Score):
    """``‖w * d‖_p`` over the O output channels. Attributes: as :class:`InputNorm`."""

    p: float
    normalize: bool

    kind = "output_norm"
    of = "output"

    def on_maps(self, change: Tensor, geometry: ConvGeometry) -> Tensor:
        with no_autocast(change):
            power = channel_power(change, self.p)
            return finish_norm(power, self.p, change.shape[1], self.normalize)


@dataclass(frozen=True, eq=False)
class Linear(Score):
    """``φ * d``, or ``φ * |d|``: a convolution to one channel in the layer's own geometry.

    Attributes:
        weight: φ, (1, C, kh, kw), ungrouped.
        rectify: take ``|d|``.
    """

    weight: Tensor
    rectify: bool = False

    kind = "linear"
    learned = True

    @property
    def additive(self) -> bool:
        return not self.rectify

    def on_maps(self, change: Tensor, geometry: ConvGeometry) -> Tensor:
        with no_autocast(change):
            change = change.to(accumulation_dtype(change.dtype))
            change = change.abs() if self.rectify else change
            return convolve_to_one(change, self.weight.to(change.dtype), geometry)


@dataclass(frozen=True, eq=False)
class Threshold:
    """What a score must exceed: ``value``, or ``value`` times a measured magnitude.

    Attributes:
        value: a number, or a 0-d tensor on the layer's device where it is learned.
        relative_to: the magnitude is the mean ``|x|`` of the input, or the mean ``|w * x|``, of a
            slot's last dense frame; None for an absolute threshold.
        calibrated: a magnitude that replaces the measured one where it is positive, 0-d, or None.
    """

    value: float | Tensor
    relative_to: Side | None = None
    calibrated: Tensor | None = None

    @no_grad()
    def measure(self, x: Tensor, response: Tensor) -> Tensor | None:
        """The magnitude of dense frames, (N,), at least :data:`SCALE_FLOOR`.

        Args:
            x: (N, C, H, W).
            response: ``w * x``, (N, O, H', W').

        Returns:
            None for an absolute threshold.
        """
        if self.relative_to is None:
            return None
        seen = x if self.relative_to == "input" else response
        dtype = accumulation_dtype(seen.dtype)
        measured = seen.abs().flatten(1).mean(1, dtype=dtype)
        if self.calibrated is not None:
            fixed = self.calibrated.to(dtype)
            measured = torch.where(fixed > 0, fixed, measured)
        return measured.clamp_min(SCALE_FLOOR)

    def limit(self, scale: Tensor | None) -> float | Tensor:
        """What scores (N, 1, Hb, Wb) are compared with; waits for no device.

        Args:
            scale: (N,) magnitudes, for relative thresholds.

        Raises:
            ValueError: for a relative threshold without a magnitude.
        """
        if self.relative_to is None:
            return self.value
        if scale is None:
            raise ValueError("a relative threshold needs the magnitude of a dense frame before it")
        return self.value * scale[:, None, None, None]


@dataclass(frozen=True, eq=False)
class GateSpec:
    """A gate as a value: opens a block where its largest ``score(change)`` exceeds ``threshold``.

    Attributes:
        score: what is compared.
        change: what the score is made from.
        threshold: what it is compared with.
    """

    score: Score
    change: Change
    threshold: Threshold

    @property
    def needs_response(self) -> bool:
        """Whether the gate must see ``w * x`` with the layer's own weights."""
        return self.score.of == "output" or self.threshold.relative_to == "output"


STATED = ("spec", "score", "finish", "decide", "offsets", "measure", "gain", "sees")
"""What a spec stands for: a subclass that overrides one of these is not what the spec states."""


def _states_itself(kind: type) -> bool:
    """Whether nothing that a class's spec stands for is overridden below the class that has it."""
    order = kind.__mro__
    owner = next((c for c in order if "spec" in vars(c)), None)
    if owner is None:
        return False
    below = order[: order.index(owner)]
    return not any(name in vars(c) for c in below for name in STATED)


def spec_of(gate: Any, conv: Convolution, change: Change) -> GateSpec | None:
    """The spec of a gate as it really is, or None: then its own methods must be asked.

    None for a gate without a spec, and for one of which a subclass, or the object itself, overrides
    what the spec stands for without giving a spec of its own.

    Args:
        gate: a gate, bound to a layer.
        conv: the layer's convolution.
        change: what its scores are made from.
    """
    if not _states_itself(type(gate)) or any(name in vars(gate) for name in STATED):
        return None
    found: GateSpec | None = gate.spec(conv, change)
    return found
