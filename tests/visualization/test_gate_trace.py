"""The numbers behind the pictures, against the report and by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import skippose
from skippose.visualization import GateTrace, density_bars, density_heat_map, macs_over_time
from skippose.visualization.gate_trace import PassWatch


def network(gate: skippose.Gate) -> nn.Module:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, 2, 1))
    return skippose.convert(dense, gate).eval()


def clip() -> torch.Tensor:
    """Five frames: the third repeats the second, the fourth is another scene."""
    torch.manual_seed(1)
    frames = torch.rand(5, 3, 8, 8)
    frames[1] = frames[0]
    frames[1, :, 2, 2] += 1
    frames[2] = frames[1]
    frames[4] = frames[3]
    return frames


@torch.no_grad()
def trace(net: nn.Module, **schedule) -> tuple[GateTrace, skippose.Report]:
    with skippose.clips(5, keep_masks=True, **schedule) as run:
        net(clip())
    return GateTrace.of(run, net), run.report(net)


def test_macs_over_time_add_up_to_the_report() -> None:
    gate = skippose.InputNormGate(eps=0.01, scale="absolute", block_mode="fixed")
    found, report = trace(network(gate))
    assert found.names == ("0", "2")
    assert found.gmacs[1:].mean() == pytest.approx(report.gmacs)
    assert found.gmacs[0] == pytest.approx(found.dense_gmacs) == pytest.approx(report.dense_gmacs)
    np.testing.assert_allclose(found.means, list(report.densities.values()))
    assert found.gmacs[2] == 0, "a still frame"
    # One pixel changes nine outputs of 64.
    assert found.density[0, 1] == pytest.approx(9 / 64)
    assert found.cuts == []


def test_gates_own_macs_count() -> None:
    found, report = trace(network(skippose.GumbelGate()))
    assert report.gate_gmacs > 0
    assert found.gmacs[1:].mean() == pytest.approx(report.gmacs)


def test_layers_without_a_gate_count() -> None:
    net = network(skippose.InputNormGate(eps=0.01))
    net[0].set_gate(None)
    found, report = trace(net)
    assert found.names == ("2",)
    assert found.gmacs[1:].mean() == pytest.approx(report.gmacs)


def test_cuts_and_refreshes_are_told() -> None:
    net = network(skippose.InputNormGate(eps=0.01, scale="absolute"))
    assert trace(net, cut=0.5)[0].cuts == [3]
    assert trace(net, refresh_every=2)[0].cuts == [2, 4]


def test_a_network_without_gates_has_no_trace() -> None:
    net = network(skippose.InputNormGate(eps=0.01))
    for layer in (net[0], net[2]):
        layer.set_gate(None)
    with pytest.raises(ValueError, match="no gated layer"):
        trace(net)
    with pytest.raises(ValueError, match="no gated convolution"):
        PassWatch(net)


@pytest.mark.parametrize("chart", [density_bars, density_heat_map, macs_over_time])
def test_charts_are_pictures_that_depend_on_the_numbers(chart) -> None:
    net = network(skippose.InputNormGate(eps=0.01, scale="absolute"))
    one, two = chart(trace(net)[0]), chart(trace(net, refresh_every=2)[0])
    assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3
    assert one.std() > 5, "not blank"
    assert one.shape != two.shape or (one != two).any()


def test_a_clip_of_one_frame_can_be_drawn() -> None:
    net = network(skippose.InputNormGate(eps=0.01))
    with torch.no_grad(), skippose.clips(1, keep_masks=True) as run:
        net(clip()[:1])
    found = GateTrace.of(run, net)
    for chart in (density_bars, density_heat_map, macs_over_time):
        assert chart(found).std() > 5
