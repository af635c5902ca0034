"""Norm gates: open where the change is larger than a threshold. No parameters."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from skippose.gates.base import BlockMode, Gate, Source, one_of, register_gate
from skippose.ops.gate_spec import Change, GateSpec, InputNorm, OutputNorm, Side, Threshold
from skippose.ops.geometry import Convolution, accumulation_dtype, no_grad
from skippose.ops.norms import channel_power

Scale = Literal["relative", "absolute"]


class NormGate(Gate):
    """Common part of the norm gates: ``g = 1[norm > eps · scale]``.

    Args:
        eps: the threshold, at least 0. With 0 every change opens.
        scale: ``'relative'``: eps is a share of the layer's own magnitude, from calibration or
            from the slot's last dense frame; ``'absolute'``: eps as it stands (the paper).
        p: 1, 2 or ``math.inf`` (also ``'inf'``).
        block: see :class:`Gate`.
        block_mode: see :class:`Gate`.
        normalize: means over the receptive field; False gives the paper's raw sums.
        source: see :class:`Gate`.
        train_gates: False leaves gates open while training (the authors' way); True trains the
            network through them.

    Raises:
        ValueError: for a negative or non-finite eps, an unknown p or scale.
    """

    magnitude: Tensor
    relative_to: ClassVar[Side] = "input"

    def __init__(
        self,
        eps: float,
        scale: Scale = "relative",
        p: float | str = 1,
        block: int = 1,
        block_mode: BlockMode = "scaled",
        normalize: bool = True,
        source: Source = "residual",
        train_gates: bool = False,
    ) -> None:
        super().__init__(block, block_mode, source)
        if not (isinstance(eps, int | float) and math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps must be a number of at least 0, got {eps!r}")
        one_of("scale", scale, ("relative", "absolute"))
        p = math.inf if p == "inf" else p
        one_of("p", p, (1, 2, math.inf))
        self.eps = float(eps)
        self.scale: Scale = scale
        self.p = float(p)
        self.normalize = normalize
        self.train_gates = train_gates
        # The layer's magnitude from calibration; 0 means that the stream's own is used.
        self.register_buffer("magnitude", torch.zeros((), dtype=torch.float32, device="cpu"))

    @property
    def always_open(self) -> bool:
        return self.training and not self.train_gates

    @property
    def threshold(self) -> Threshold:
        """What the norm must exceed."""
        return self._threshold(self.eps)

    def _threshold(self, value: float | Tensor) -> Threshold:
        relative = self.relative_to if self.scale == "relative" else None
        return Threshold(value, relative, self.magnitude)

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        return score.detach() > self.threshold.limit(scale)

    def _plain_norm(self, columns: Tensor) -> Tensor:
        """The norm as it is defined, over dimension 1: (N, K, L) to (N, L)."""
        columns = columns.abs()
        if math.isinf(self.p):
            return columns.amax(1)
        total = columns.pow(self.p).sum(1)
        return (total / columns.shape[1] if self.normalize else total) ** (1 / self.p)

    def measure(self, x: Tensor, response: Tensor) -> Tensor | None:
        return self.threshold.measure(x, response)

    def settings(self) -> dict[str, object]:
        return {
            **super().settings(),
            "eps": self.eps,
            "scale": self.scale,
            "p": self.p,
            "normalize": self.normalize,
            "train_gates": self.train_gates,
        }

    def state_kind(self) -> dict[str, object]:
        return {**super().state_kind(), "scale": self.scale}

    def norm_settings(self) -> dict[str, object]:
        """Those of the gate without learned parameters that decides as this one in evaluation."""
        return self.settings()


@register_gate
class InputNormGate(NormGate):
    """Norm of the input's change over the receptive field: the mean of ``|d|`` for p = 1.

    The bound it gives under ``hold``, N elements in R(p): ``|z - (w*x_t + b)|_o`` is at most
    ``N·eps·max|w_o|`` (p = 1), ``√N·eps·‖w_o‖_2`` (p = 2), ``eps·‖w_o‖_1`` (p = inf), eps in the
    input's unit. Arguments: :class:`NormGate`.
    """

    def norm(self, conv: Convolution) -> InputNorm:
        """The score."""
        return InputNorm(self.p, self.normalize)

    def spec(self, conv: Convolution, change: Change) -> GateSpec | None:
        return GateSpec(self.norm(conv), change, self.threshold)

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        return self._plain_norm(change.flatten(1, 2))

    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        return self.finish(channel_power(change, self.p), conv, change.shape[1])

    @no_grad()
    def finish(self, power: Tensor, conv: Convolution, channels: int) -> Tensor:
        """From powers summed over channels, (N, 1, H, W), to scores (N, 1, H', W')."""
        return self.norm(conv).finish(power, conv.geometry, channels)

    def additions_per_output(self, conv: nn.Conv2d) -> int:
        # One difference and one addition per input element, then a window of one channel.
        per_pixel = 2 * conv.in_channels * conv.stride[0] * conv.stride[1]
        return per_pixel + math.prod(conv.kernel_size)

    @classmethod
    def examples(cls) -> dict[str, Gate]:
        return {
            "mean": cls(0.3, train_gates=True),
            "rms, blocks": cls(0.4, p=2, block=2, train_gates=True),
            "largest": cls(0.9, p="inf", block=2, train_gates=True),
            "raw": cls(30.0, scale="absolute", normalize=False, train_gates=True),
            "of the frame": cls(0.9, source="frame", train_gates=True),
        }


@register_gate
class OutputNormGate(InputNormGate):
    """The input's norm times the mean over output channels of ``‖w_o‖_1``.

    An estimate of the output's change in the output's unit, not a bound; layers whose weights are
    small are skipped more readily. Arguments: :class:`NormGate`.
    """

    relative_to = "output"

    @staticmethod
    def gain(conv: Convolution) -> Tensor:
        """Mean over output channels of ``‖w_o‖_1``, a scalar in the accumulators' dtype."""
        weight = conv.weight.detach()
        return weight.abs().flatten(1).sum(1, dtype=accumulation_dtype(weight.dtype)).mean()

    def norm(self, conv: Convolution) -> InputNorm:
        return InputNorm(self.p, self.normalize, self.gain(conv))

    def spec(self, conv: Convolution, change: Change) -> GateSpec | None:
        return super().spec(conv, change)

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        return super().on_columns(change, response, conv) * self.gain(conv)

    @classmethod
    def examples(cls) -> dict[str, Gate]:
        return {
            "mean": cls(0.6, train_gates=True),
            "blocks": cls(0.6, block=2, train_gates=True),
        }


@register_gate
class ExactNormGate(NormGate):
    """The change of the output itself, ``mean_o |w * d|``: an oracle for ablations.

    It computes the convolution to decide whether to compute it, and its MACs say so. Arguments:
    :class:`NormGate`; p is taken over output channels.
    """

    sees = "output"
    relative_to = "output"

    def spec(self, conv: Convolution, change: Change) -> GateSpec | None:
        return GateSpec(OutputNorm(self.p, self.normalize), change, self.threshold)

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        return self._plain_norm(response)

    @no_grad()
    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        return OutputNorm(self.p, self.normalize).on_maps(change, conv.geometry)

    def macs_per_output(self, conv: nn.Conv2d) -> int:
        return conv.weight.numel()

    @classmethod
    def examples(cls) -> dict[str, Gate]:
        return {
            "mean": cls(0.4, train_gates=True),
            "rms, blocks": cls(0.5, p=2, block=2, train_gates=True),
            "of the frame": cls(0.9, source="frame", train_gates=True),
        }
