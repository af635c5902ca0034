"""A gated network on calibration clips: what given thresholds cost, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skippose.calibration.sensitivity import Sensitivity, joined
from skippose.context import clips
from skippose.evaluation.clip_bank import LoadedClip
from skippose.gates import NormGate
from skippose.layers import SkipConv2d
from skippose.layers import gated_layers as layers_with_gates
from skippose.report import Report


def gated_layers(network: nn.Module) -> dict[str, SkipConv2d]:
    """The layers of a network that have norm gates, by name.

    Raises:
        ValueError: if there is none.
    """
    layers = {
        name: layer
        for name, layer in layers_with_gates(network).items()
        if isinstance(layer.gate, NormGate)
    }
    if not layers:
        raise ValueError("the network has no norm gates, and there are no thresholds to calibrate")
    return layers


class Outcome(NamedTuple):
    """What thresholds give: GMACs per frame after the first; the error."""

    gmacs: float
    error: float


class Probe:
    """Runs a network with thresholds on the same clips again and again.

    The error is the mean over clips and frames of ``|H - H_dense|^2``, H the output (heat maps), as
    a share of that of the first frame's output held: 0 is dense, 1 no better than frozen. It is
    finer than PCK and needs no labels.

    Args:
        network: a ``SkipTopdownPoseEstimator`` in evaluation mode.
        loaded: the clips.
        frames: use only so many frames of each, from its first on.
        on_clip: called after each clip of each run.

    Attributes:
        count_gates: whether GMACs are with what the gates themselves compute.
    """

    count_gates = True

    def __init__(
        self,
        network: Any,
        loaded: Sequence[LoadedClip],
        frames: int | None = None,
        on_clip: Callable[[], None] = lambda: None,
    ) -> None:
        self.network = network
        self.layers = gated_layers(network)
        self.on_clip = on_clip
        with torch.no_grad():
            self.images = [
                network.data_preprocessor(
                    dict(inputs=[clip.inputs[:frames]], data_samples=[clip.samples[:frames]])
                )["inputs"]
                for clip in loaded
            ]
            # Outside of clips the network is dense.
            self.dense = [joined(network._forward(images)) for images in self.images]
        self.span = sum(float((h - h[:1]).square().sum()) for h in self.dense)
        if not self.span > 0:
            raise ValueError(
                "the network's output is the same in all frames of the calibration clips, which "
                "say nothing about thresholds"
            )

    @property
    def thresholds(self) -> np.ndarray:
        """(L,) those that the network runs with."""
        gates = [layer.gate for layer in self.layers.values()]
        return np.array([gate.eps for gate in gates if isinstance(gate, NormGate)])

    @thresholds.setter
    def thresholds(self, values: np.ndarray) -> None:
        for layer, eps in zip(self.layers.values(), values, strict=True):
            assert isinstance(layer.gate, NormGate)
            layer.gate.eps = float(eps)

    @torch.inference_mode()
    def run(self, thresholds: np.ndarray, only: Sequence[int] | None = None) -> Outcome:
        """What thresholds (L,) give on the clips, or on some of them."""
        self.thresholds = thresholds
        total, error, span = Report(), 0.0, 0.0
        for n in range(len(self.images)) if only is None else only:
            images, dense = self.images[n], self.dense[n]
            with clips(len(images)) as run:
                output = joined(self.network._forward(images))
            total += run.report(self.network)
            error += float((output - dense).square().sum())
            span += float((dense - dense[:1]).square().sum())
            self.on_clip()
        gmacs = total.gmacs if self.count_gates else total.gmacs - total.gate_gmacs
        return Outcome(gmacs, error / span if span else 0.0)

    @torch.inference_mode()
    def magnitudes(self) -> np.ndarray:
        """(L,) what relative thresholds refer to, as a mean over all frames of all clips."""
        sums = dict.fromkeys(self.layers, 0.0)

        def note(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                z = output if layer.bias is None else output - layer.bias[:, None, None]
                seen = inputs[0] if layer.gate.relative_to == "input" else z
                sums[name] += float(seen.abs().flatten(1).mean(1, dtype=torch.float64).sum())

            return hook

        hooks = [layer.register_forward_hook(note(n)) for n, layer in self.layers.items()]
        try:
            for images in self.images:
                self.network._forward(images)
        finally:
            for hook in hooks:
                hook.remove()
        frames = sum(map(len, self.images))
        return np.array([sums[name] / frames for name in self.layers])


@contextmanager
def _alone(layers: Sequence[SkipConv2d], chosen: SkipConv2d) -> Any:
    """All other layers run densely."""
    gates = [layer.gate for layer in layers]
    for layer in layers:
        if layer is not chosen:
            layer.gate = None
    try:
        yield
    finally:
        for layer, gate in zip(layers, gates, strict=True):
            layer.gate = gate


@torch.inference_mode()
def single_layer_sensitivity(
    probe: Probe, layer: int, thresholds: Sequence[float], only: Sequence[int]
) -> Sensitivity:
    """Error and cost of one layer at its levels, (1, K), when no other layer is gated.

    Args:
        probe: the network on its clips.
        layer: the layer's index.
        thresholds: (K,) those to try.
        only: the clips' indices.
    """
    name = list(probe.layers)[layer]
    chosen = probe.layers[name]
    assert isinstance(chosen.gate, NormGate)
    usual = chosen.gate.eps
    errors, costs = [], []
    try:
        with _alone(list(probe.layers.values()), chosen):
            for eps in thresholds:
                chosen.gate.eps = float(eps)
                error, report = 0.0, Report()
                for n in only:
                    with clips(len(probe.images[n])) as run:
                        output = joined(probe.network._forward(probe.images[n]))
                    error += float((output - probe.dense[n]).square().sum())
                    report += run.report(probe.network)
                costs.append(
                    sum(
                        x.macs * report.density(x)
                        for x in report.layers
                        if x.name.partition("#")[0] == name
                    )
                    / 1e9
                )
                errors.append(error)
                probe.on_clip()
    finally:
        chosen.gate.eps = usual
    return Sensitivity(np.array([errors]), np.array([costs]))
