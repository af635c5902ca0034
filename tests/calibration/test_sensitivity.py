"""The gradient's word on thresholds against what they do."""

import numpy as np
import pytest

pytest.importorskip("mmpose")

import torch
from torch import nn

import skippose
from skippose.calibration import gated_layers, gradient_sensitivity
from skippose.calibration.probe import Probe


class Net(nn.Module):
    """A linear network, for which the second order is all there is; looks like an estimator."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 2, 3, padding=1)

    def _forward(self, x):
        return self.b(self.a(x))

    def forward(self, x):
        return self._forward(x)


@pytest.fixture
def setting():
    torch.manual_seed(0)
    net = skippose.convert(Net(), gate=skippose.InputNormGate(eps=0.3)).eval()
    steps = torch.randn(24, 3, 8, 8) * torch.rand(24, 1, 8, 8)
    images = 1 + 0.3 * steps.cumsum(0)
    with torch.no_grad():
        dense = net(images)
    return net, images, dense


def error(net, images, dense):
    with torch.no_grad(), skippose.clips(len(images)) as run:
        out = net(images)
    return float((out - dense).square().sum()), run.report(net)


def test_of_the_last_layer_it_is_right(setting):
    net, images, dense = setting
    layers = gated_layers(net)
    assert list(layers) == ["a", "b"]
    levels = np.array([[0.15, 0.3, 0.6]] * 2)
    draws = [
        gradient_sensitivity(net, layers, images, dense, levels, torch.Generator().manual_seed(n))
        for n in range(200)
    ]
    found = sum(d.error for d in draws) / len(draws)
    base, _ = error(net, images, dense)
    for k, eps in enumerate(levels[1]):
        layers["b"].gate.eps = eps
        here, report = error(net, images, dense)
        assert found[1, k] == pytest.approx(here - base, rel=0.15, abs=0.02 * base)
        spent = report.layers[1].macs * report.density(report.layers[1]) / 1e9
        assert draws[0].gmacs[1, k] == pytest.approx(spent)
    assert found[:, 1].tolist() == [0, 0]
    assert found[0, 2] > 0 > found[0, 0]
    assert [layer.gate.eps for layer in layers.values()] == [0.3, 0.6]  # as they were found


def test_it_leaves_the_network_as_it_was(setting):
    net, images, dense = setting
    net.b.weight.requires_grad_(False)
    gradient_sensitivity(
        net, gated_layers(net), images, dense, np.full((2, 1), 0.2), torch.Generator()
    )
    assert [p.requires_grad for p in net.parameters()] == [True, True, False, True]
    assert all(p.grad is None for p in net.parameters())


def test_no_norm_gate_raises():
    with pytest.raises(ValueError, match="no norm gates"):
        gated_layers(skippose.convert(Net(), gate=None))


def test_the_probe_counts_and_compares(setting):
    net, images, dense = setting
    probe = Probe.__new__(Probe)  # without the estimator's preprocessing
    probe.network, probe.layers, probe.on_clip = net, gated_layers(net), lambda: None
    probe.images, probe.dense = [images], [dense]
    expected, report = error(net, images, dense)
    span = float((dense - dense[:1]).square().sum())
    assert probe.run(np.array([0.3, 0.3])) == pytest.approx((report.gmacs, expected / span))
    assert probe.run(np.array([0.0, 0.0])).error == pytest.approx(0, abs=1e-9)
    assert probe.run(np.array([1e6, 1e6])) == pytest.approx((0, 1))
    means = probe.magnitudes()
    assert means[0] == pytest.approx(float(images.abs().mean()), rel=1e-5)
