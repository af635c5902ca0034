"""A norm gate that learns its threshold: sampled in training, a plain norm gate after."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from skippose.gates.base import BlockMode, Gate, Source, register_gate
from skippose.gates.gumbel import Sampled, binary_sample, logistic
from skippose.gates.norm import InputNormGate, Scale
from skippose.ops.gate_spec import Change, GateSpec, Threshold
from skippose.ops.geometry import Convolution, accumulation_dtype


@register_gate
class GumbelNormGate(Sampled, InputNormGate):
    """:class:`InputNormGate` whose threshold is a parameter, one number for each layer.

    In training a binary sample is drawn, ``g = 1[logit + n > 0]`` with logistic noise n and
    ``logit = sharpness · log(norm / (eps · scale))``, whose gradient goes to eps alone, through a
    sigmoid as in :class:`~skippose.gates.GumbelGate`. In evaluation it is the norm gate with what
    eps has become: no multiplication of its own, and every backend runs it.

    Args:
        eps: the threshold to begin with, positive; one from ``tools/calibrate.py`` is a good one.
        scale: see :class:`NormGate`.
        p: see :class:`NormGate`.
        block: see :class:`Gate`.
        block_mode: see :class:`Gate`.
        normalize: see :class:`NormGate`.
        source: see :class:`Gate`.
        sharpness: how many logits a factor of e in the norm is worth.
        temperature: see :class:`~skippose.gates.GumbelGate`.
        noise: see :class:`~skippose.gates.GumbelGate`.

    Raises:
        ValueError: for a threshold, temperature or sharpness that is not positive, a negative
            noise, and as :class:`NormGate`.
    """

    log_eps: nn.Parameter

    def __init__(
        self,
        eps: float,
        scale: Scale = "relative",
        p: float | str = 1,
        block: int = 1,
        block_mode: BlockMode = "scaled",
        normalize: bool = True,
        source: Source = "residual",
        sharpness: float = 4.0,
        temperature: float = 2 / 3,
        noise: float = 1.0,
    ) -> None:
        super().__init__(eps, scale, p, block, block_mode, normalize, source, train_gates=True)
        self.set_sampling(temperature, noise)
        if not (math.isfinite(sharpness) and sharpness > 0):
            raise ValueError(f"sharpness must be positive, got {sharpness!r}")
        self.sharpness = float(sharpness)

    @property
    def eps(self) -> float:
        """The threshold as it is now; reading it waits for the device."""
        return math.exp(float(self.log_eps.detach()))

    @eps.setter
    def eps(self, value: float) -> None:
        if not value > 0:
            raise ValueError(f"eps must be positive to be learned, got {value!r}")
        if "log_eps" not in self._parameters:
            start = torch.tensor(math.log(value), dtype=torch.float32, device="cpu")
            self.log_eps = nn.Parameter(start)
        with torch.no_grad():  # an optimizer may have it already
            self.log_eps.fill_(math.log(value))

    @property
    def threshold(self) -> Threshold:
        # Not `eps`: a number would have to come from the device.
        learned = self.log_eps.detach().to(accumulation_dtype(self.log_eps.dtype)).exp()
        return self._threshold(learned)

    def spec(self, conv: Convolution, change: Change) -> GateSpec | None:
        # Training draws; in evaluation `decide` is the norm gate's.
        return super().spec(conv, change)

    @property
    def samples(self) -> bool:
        return self.training

    @property
    def learns(self) -> bool:
        return True

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        if not self.training:
            return super().decide(score, scale)
        score = score.detach()
        if self.scale == "relative":
            if scale is None:
                raise ValueError("a relative threshold needs the magnitude of a dense frame")
            score = score / scale[:, None, None, None]
        # Where nothing changed the logit is -inf: closed whatever the noise, without a gradient.
        logit = self.sharpness * (score.log() - self.log_eps.to(score.dtype))
        return binary_sample(logit + self.noise * logistic(logit), self.temperature)

    def settings(self) -> dict[str, object]:
        found = super().settings()
        del found["train_gates"]
        return {
            **found,
            "eps": float(f"{self.eps:.6g}"),  # of a logarithm in float32
            "sharpness": self.sharpness,
            "temperature": self.temperature,
            "noise": self.noise,
        }

    def norm_settings(self) -> dict[str, object]:
        """Those of the :class:`InputNormGate` that decides as this gate does in evaluation.

        With it a network takes the threshold from its config; this gate's own is in a checkpoint.
        """
        found = self.settings()
        for name in ("sharpness", "temperature", "noise"):
            del found[name]
        return {**found, "type": InputNormGate.__name__}

    @classmethod
    def examples(cls) -> dict[str, Gate]:
        return {"relative": cls(0.3), "absolute, blocks": cls(0.3, scale="absolute", block=2)}
