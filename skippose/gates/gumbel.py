"""The Gumbel gate: a learned decision, sampled in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from skippose.gates.base import BlockMode, Gate, Source, register_gate
from skippose.ops.gate_spec import Change, GateSpec, Linear, Threshold
from skippose.ops.geometry import Convolution


class Sampled:
    """A gate that draws its decisions in training.

    Attributes:
        temperature: of the sigmoid that gives the gradient.
        noise: how much of the logistic noise is added.
    """

    temperature: float
    noise: float

    def set_sampling(self, temperature: float, noise: float) -> None:
        """Raises ValueError for a temperature that is not positive or a negative noise."""
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature!r}")
        if not (math.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise must be at least 0, got {noise!r}")
        self.temperature, self.noise = float(temperature), float(noise)


def logistic(like: Tensor) -> Tensor:
    """Logistic noise, the difference of two Gumbels, in the shape and dtype of ``like``."""
    u = torch.rand_like(like).clamp_min_(torch.finfo(like.dtype).tiny)
    return torch.log(u) - torch.log1p(-u)


def binary_sample(logit: Tensor, temperature: float) -> Tensor:
    """``1[logit > 0]`` as a float, with the gradient of ``sigmoid(logit / temperature)``."""
    soft = torch.sigmoid(logit / temperature)
    # hard + (soft - soft) in this order: exactly 0 or 1 in value.
    return (logit > 0).to(soft.dtype) + (soft - soft.detach())


@register_gate
class GumbelGate(Sampled, Gate):
    """A convolution φ to one channel looks at the change: ``logit = φ * d + c``.

    φ has the layer's kernel size, stride, padding and dilation. In training a binary sample is
    drawn, ``g = 1[logit + n > 0]`` with logistic noise n (the difference of two Gumbels), and the
    gradient is that of ``sigmoid((logit + n) / temperature)`` (straight-through). In evaluation
    ``g = 1[logit > 0]``.

    Args:
        block: see :class:`Gate`; one sample per block, of its largest logit.
        block_mode: see :class:`Gate`.
        source: see :class:`Gate`.
        temperature: of the sigmoid that gives the gradient; 2/3 as in the paper.
        noise: how much of the logistic noise is added in training; 1 as in the paper, 0 decides as
            in evaluation.
        init_open: the initial c, a logit; positive so that training begins with open gates.
        rectify: feed ``|d|`` instead of d, as the authors' code does. Under ``hold`` the layer then
            remembers the input that each output was last computed from, as for norm gates, and not
            φ*x alone.
        threshold: begin as the norm gate that opens where the mean of ``|d|`` exceeds this: φ is
            the constant that makes ``logit = init_open · (1 - mean|d| / threshold)``. ``init_open``
            must be negative then, and says how sharply the gate tells changes apart. None draws φ
            at random.

    Raises:
        ValueError: for a temperature that is not positive, a c that is not finite, a negative
            noise, or a threshold that is not positive, lacks ``rectify`` or a negative
            ``init_open``.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        block: int = 1,
        block_mode: BlockMode = "scaled",
        source: Source = "residual",
        temperature: float = 2 / 3,
        init_open: float = 3.0,
        rectify: bool = False,
        noise: float = 1.0,
        threshold: float | None = None,
    ) -> None:
        super().__init__(block, block_mode, source)
        self.set_sampling(temperature, noise)
        if not math.isfinite(init_open):
            raise ValueError(f"init_open must be a finite logit, got {init_open!r}")
        if threshold is not None:
            if not (math.isfinite(threshold) and threshold > 0):
                raise ValueError(f"threshold must be positive, got {threshold!r}")
            if not (rectify and init_open < 0):
                raise ValueError(
                    "a threshold needs rectify=True and a negative init_open, "
                    f"got rectify={rectify!r}, init_open={init_open!r}"
                )
        self.threshold = threshold
        self.init_open = float(init_open)
        self.rectify = rectify
        self.observer: Callable[[Tensor], None] | None = None
        """Called with all block logits, without noise, before they are decided."""

    def for_layer(self, conv: nn.Conv2d) -> GumbelGate:
        gate = cast(GumbelGate, super().for_layer(conv))
        # Plain parameters and not a Conv2d: a backbone's init_weights re-initialises every Conv2d.
        like = conv.weight.detach()
        gate.weight = nn.Parameter(like.new_empty(1, conv.in_channels, *conv.kernel_size))
        gate.bias = nn.Parameter(like.new_full((1,), self.init_open))
        count = gate.weight[0].numel()
        if self.threshold is None:
            nn.init.uniform_(gate.weight, -1 / math.sqrt(count), 1 / math.sqrt(count))
        else:
            nn.init.constant_(gate.weight, -self.init_open / (self.threshold * count))
        return gate

    @property
    def samples(self) -> bool:
        return self.training

    @property
    def learns(self) -> bool:
        return True

    @property
    def phi(self) -> Linear:
        """The score, without c: differences of two scores are scores of the difference."""
        return Linear(self.weight, self.rectify)

    def spec(self, conv: Convolution, change: Change) -> GateSpec | None:
        return GateSpec(self.phi, change, Threshold(-self.bias.detach()[0]))

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        change = change.abs() if self.rectify else change
        phi = self.weight.to(change.dtype).reshape(-1, 1)
        return (phi * change.flatten(1, 2)).sum(1)

    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        return self.phi.on_maps(change, conv.geometry)

    def decide(self, score: Tensor, scale: Tensor | None, offsets: Tensor | None = None) -> Tensor:
        if self.observer is not None:
            self.observer(score.detach() + self.bias.detach().to(score.dtype))
        logit = score + (self.offsets(score) if offsets is None else offsets)
        return binary_sample(logit, self.temperature) if self.training else logit > 0

    def offsets(self, like: Tensor) -> Tensor:
        """c, and in training the noise: the shape and dtype of ``like``."""
        bias = self.bias.to(like.dtype)
        if not self.training:
            return bias.expand(like.shape)
        return bias + self.noise * logistic(like)

    def macs_per_output(self, conv: nn.Conv2d) -> int:
        return conv.in_channels * math.prod(conv.kernel_size)

    def settings(self) -> dict[str, object]:
        return {
            **super().settings(),
            "temperature": self.temperature,
            "init_open": self.init_open,
            "rectify": self.rectify,
            "noise": self.noise,
            "threshold": self.threshold,
        }

    def state_kind(self) -> dict[str, object]:
        return {**super().state_kind(), "rectify": self.rectify}

    @classmethod
    def examples(cls) -> dict[str, Gate]:
        return {
            "linear": cls(init_open=-0.1),
            "blocks": cls(init_open=-0.1, block=2),
            "rectified": cls(init_open=-0.1, rectify=True),
            "rectified, blocks": cls(init_open=-0.1, rectify=True, block=2),
            "of the frame": cls(init_open=-0.2, source="frame"),
        }
