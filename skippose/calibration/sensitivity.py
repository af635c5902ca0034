"""What each layer's threshold does to the network's output, by gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skippose.frames_pass import FramesPass
from skippose.gates import NormGate
from skippose.layers import SkipConv2d, gated_pass
from skippose.ops import skip_conv_clip
from skippose.ops.schedule import Schedule


@dataclass(frozen=True)
class Sensitivity:
    """Errors and costs of L layers at K levels of their thresholds.

    Attributes:
        error: (L, K) what the layer's threshold adds to the output's squared error; only
            differences within a row matter.
        gmacs: (L, K) what the layer then costs a frame.
    """

    error: np.ndarray
    gmacs: np.ndarray

    def __add__(self, other: Sensitivity) -> Sensitivity:
        return Sensitivity(self.error + other.error, self.gmacs + other.gmacs)

    def __truediv__(self, parts: float) -> Sensitivity:
        return Sensitivity(self.error / parts, self.gmacs / parts)


class _SensitivityPass(FramesPass):
    """A gated pass whose layers are gated as they are, and try other thresholds beside.

    A layer's output is the gated one, with the gradient of the dense one, so that a backward pass
    brings each layer a derivative at the point at which the network runs.
    """

    def __init__(self, frames: int, thresholds: dict[SkipConv2d, list[float]]) -> None:
        super().__init__(frames, Schedule(None, None))
        self.thresholds = thresholds
        levels = len(next(iter(thresholds.values())))
        nothing = torch.zeros(levels, dtype=torch.float64, device="cpu")
        self.error = {layer: nothing.clone() for layer in thresholds}
        self.macs = {layer: nothing.clone() for layer in thresholds}
        self.squares = False  # what the backward pass adds: squares of projections, or sums

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        if layer not in self.thresholds:
            return super().skip_conv(layer, x)
        self._enter(layer, x)
        self._next_call(layer)
        assert self.frame_size is not None and isinstance(layer.gate, NormGate)
        operation = layer.gated(self.frame_size, x.shape[-2], x.shape[-1])
        images = x.detach().unflatten(0, (self.batch, self.frames))
        y = layer.dense(x)
        size = (y.shape[-2], y.shape[-1])
        cost = y[0, 0].numel() * (layer.macs_per_location + layer.gate.macs_per_output(layer))
        usual, deviations = layer.gate.eps, {}
        try:
            with torch.no_grad():
                result = skip_conv_clip(images, operation, None, self.dense, False)
                z = result.z.flatten(0, 1)
                for k, eps in enumerate(self.thresholds[layer]):
                    tried = result
                    if eps != usual:
                        layer.gate.eps = eps
                        tried = skip_conv_clip(images, operation, None, self.dense, False)
                        deviations[k] = tried.z.flatten(0, 1) - z
                    opened = operation.expand(tried.gate, size)[:, 1:].double().mean()
                    self.macs[layer][k] += float(opened) * cost
        finally:
            layer.gate.eps = usual

        def weigh(gradient: Tensor) -> None:
            for k, deviation in deviations.items():
                along = (gradient * deviation).flatten(1).sum(1, dtype=torch.float64)
                self.error[layer][k] += float((along.square() if self.squares else along).sum())

        if y.requires_grad:
            y.register_hook(weigh)
        return y + (z - y).detach()


def gradient_sensitivity(
    network: Any,
    layers: dict[str, SkipConv2d],
    images: Tensor,
    dense: Tensor,
    thresholds: np.ndarray,
    generator: torch.Generator,
) -> Sensitivity:
    """What all layers' thresholds would change of the output's error, by two backward passes.

    The network runs with the thresholds that it has; its output H is off the dense one by
    e = H - H_dense. Another threshold in one layer changes the layer's output by d, and with J the
    derivative of H by that output, the squared error changes by ``2 e.J d + |J d|^2`` (Gauss and
    Newton). The first term is a backward pass from 2e. The second is one from random signs v, for
    ``E (v.J d)^2 = |J d|^2`` (Hutchinson 1990): one draw a frame, which frames average out.

    Args:
        network: an estimator in evaluation mode, with the thresholds at which it runs.
        layers: the layers, by name.
        images: (T, 3, H, W), preprocessed.
        dense: (T, ...) the dense network's output.
        thresholds: (L, K) the layers' thresholds to try.
        generator: for the signs.

    Returns:
        Changes of the error, a sum over frames, and costs per frame after the first.
    """
    tried = {layer: list(row) for layer, row in zip(layers.values(), thresholds, strict=True)}
    run = _SensitivityPass(len(images), tried)
    before = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        with gated_pass(run):
            output = joined(network._forward(images.clone().requires_grad_()))
        output.backward(2 * (output.detach() - dense), retain_graph=True)
        run.squares = True
        signs = torch.randint(
            0, 2, output.shape, generator=generator, dtype=torch.int64, device=generator.device
        )
        output.backward((signs * 2 - 1).to(output))
    finally:
        for parameter, wanted in zip(network.parameters(), before, strict=True):
            parameter.requires_grad_(wanted)
    return Sensitivity(
        np.stack([run.error[layer].numpy() for layer in layers.values()]),
        np.stack([run.macs[layer].numpy() / 1e9 for layer in layers.values()]),
    )


def joined(output: Any) -> Tensor:
    """A head's output as one tensor (T, ...), its parts side by side if it has several."""
    if isinstance(output, Tensor):
        return output
    return torch.cat([joined(part).flatten(1) for part in output], 1)
