"""Norm gates: open where the change is larger than a threshold. No parameters."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from skippose.gates.base import BlockMode, Gate, Source, no_autocast, one_of
from skippose.ops.geometry import Convolution, accumulation_dtype, no_grad
from skippose.ops.norms import channel_power, finish_norm, window_power

Scale = Literal["relative", "absolute"]

SCALE_FLOOR = 1e-3
"""Smallest magnitude a relative threshold refers to: a black frame must not open every gate."""


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
    relative_to: Literal["input", "output"] = "input"

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
        self.register_buffer("magnitude", torch.zeros(()))

    @property
    def always_open(self) -> bool:
        return self.training and not self.train_gates

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        score = score.detach()
        if self.scale == "absolute":
            return score > self.eps
        if scale is None:
            raise ValueError("a relative threshold needs the magnitude of a dense frame before it")
        return score > self.eps * scale[:, None, None, None]

    def _plain_norm(self, columns: Tensor) -> Tensor:
        """The norm as it is defined, over dimension 1: (N, K, L) to (N, L)."""
        columns = columns.abs()
        if math.isinf(self.p):
            return columns.amax(1)
        total = columns.pow(self.p).sum(1)
        return (total / columns.shape[1] if self.normalize else total) ** (1 / self.p)

    @no_grad()
    def measure(self, x: Tensor, response: Tensor) -> Tensor | None:
        if self.scale == "absolute":
            return None
        seen = x if self.relative_to == "input" else response
        dtype = accumulation_dtype(seen.dtype)
        measured = seen.abs().flatten(1).mean(1, dtype=dtype)
        calibrated = self.magnitude.to(dtype)
        return torch.where(calibrated > 0, calibrated, measured).clamp_min(SCALE_FLOOR)

    def settings(self) -> dict[str, object]:
        return {
            **super().settings(),
            "eps": self.eps,
            "scale": self.scale,
            "p": self.p,
            "normalize": self.normalize,
            "train_gates": self.train_gates,
        }


class InputNormGate(NormGate):
    """Norm of the input's change over the receptive field: the mean of ``|d|`` for p = 1.

    The bound it gives under ``hold``, N elements in R(p): ``|z - (w*x_t + b)|_o`` is at most
    ``N·eps·max|w_o|`` (p = 1), ``√N·eps·‖w_o‖_2`` (p = 2), ``eps·‖w_o‖_1`` (p = inf), eps in the
    input's unit. Arguments: :class:`NormGate`.
    """

    sees = "input"

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        return self._plain_norm(change.flatten(1, 2))

    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        with no_autocast(change), no_grad():
            return self.finish(channel_power(change, self.p), conv, change.shape[1])

    def finish(self, power: Tensor, conv: Convolution, channels: int) -> Tensor:
        """From powers summed over channels, (N, 1, H, W), to scores (N, 1, H', W')."""
        with no_autocast(power), no_grad():
            count = channels * math.prod(conv.geometry.kernel_size)
            collected = window_power(power, conv.geometry, self.p)
            return finish_norm(collected, self.p, count, self.normalize)

    def additions_per_output(self, conv: nn.Conv2d) -> int:
        # One difference and one addition per input element, then a window of one channel.
        per_pixel = 2 * conv.in_channels * conv.stride[0] * conv.stride[1]
        return per_pixel + math.prod(conv.kernel_size)


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

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        return super().on_columns(change, response, conv) * self.gain(conv)

    def finish(self, power: Tensor, conv: Convolution, channels: int) -> Tensor:
        return super().finish(power, conv, channels) * self.gain(conv)


class ExactNormGate(NormGate):
    """The change of the output itself, ``mean_o |w * d|``: an oracle for ablations.

    It computes the convolution to decide whether to compute it, and its MACs say so. Arguments:
    :class:`NormGate`; p is taken over output channels.
    """

    sees = "output"
    relative_to = "output"

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        return self._plain_norm(response)

    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        with no_autocast(change), no_grad():
            power = channel_power(change, self.p)
            return finish_norm(power, self.p, change.shape[1], self.normalize)

    def macs_per_output(self, conv: nn.Conv2d) -> int:
        return conv.weight.numel()
