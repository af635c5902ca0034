"""The norm gate that learns its threshold."""

import math

import pytest
import torch
from torch import nn

import skippose
from skippose.gates import GumbelNormGate, InputNormGate

torch.set_num_threads(1)


def network(gate: object, reference: str = "hold") -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return skippose.convert(net, gate, reference=reference)


def video(frames: int = 5) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.rand(frames, 3, 12, 10)
    for t in range(1, frames):
        still = torch.rand(1, 12, 10) < 0.6
        x[t] = torch.where(still, x[t - 1], x[t - 1] + 0.5 * x[t])
    return x


@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_in_evaluation_it_is_the_norm_gate(reference, block, scale):
    learned = network(GumbelNormGate(0.2, scale, block=block, block_mode="fixed"), reference)
    plain = network(InputNormGate(0.2, scale, block=block, block_mode="fixed"), reference)
    found = []
    for net in (learned, plain):
        with skippose.clips(5) as run, torch.no_grad():
            z = net.eval()(video())
        found.append((z, run.report(net)))
    assert torch.equal(found[0][0], found[1][0])
    densities = [[layer.density_sum for layer in report.layers] for _, report in found]
    assert densities[0] == densities[1]
    assert found[0][1].gate_gmacs == 0


def test_setting_the_threshold_keeps_the_parameter_that_an_optimizer_has():
    gate = GumbelNormGate(0.1).double()
    parameter = gate.log_eps
    gate.eps = 0.2
    assert gate.log_eps is parameter
    assert gate.log_eps.dtype == torch.float64
    assert gate.eps == pytest.approx(0.2)


def test_the_chance_of_opening_is_logistic_in_the_log_of_the_norm():
    count = 100_000
    torch.manual_seed(0)
    gate = GumbelNormGate(0.2, sharpness=3.0, noise=0.5).train()
    for norm in (0.1, 0.2, 0.3):
        score = torch.full((1, 1, 1, count), 2.0 * norm)
        opened = gate.decide(score, torch.tensor([2.0]))
        assert set(opened.unique().tolist()) <= {0.0, 1.0}
        chance = 1 / (1 + (0.2 / norm) ** (3.0 / 0.5))
        error = 5 * math.sqrt(chance * (1 - chance) / count)
        assert opened.mean().item() == pytest.approx(chance, abs=error)


def test_what_does_not_change_stays_closed_and_leaves_no_nan():
    gate = GumbelNormGate(0.2, noise=10.0).train()
    opened = gate.decide(torch.zeros(1, 1, 30, 30), torch.ones(1))
    opened.sum().backward()
    assert not opened.any()
    assert gate.log_eps.grad.item() == 0


def test_the_gradient_is_that_of_the_tempered_sigmoid():
    gate = GumbelNormGate(0.2, "absolute", sharpness=3.0, temperature=0.5, noise=0.0).train()
    score = torch.tensor([0.1, 0.19, 0.25, 1.0]).reshape(1, 1, 1, 4)
    gate.decide(score, None).sum().backward()
    soft = torch.sigmoid(3.0 * torch.log(score / 0.2) / 0.5)
    expected = -(soft * (1 - soft) * 3.0 / 0.5).sum()
    torch.testing.assert_close(gate.log_eps.grad, expected)


def test_layers_learn_thresholds_of_their_own_towards_a_budget():
    net = network(GumbelNormGate(0.01)).train()
    optimizer = torch.optim.Adam(
        [p for name, p in net.named_parameters() if "log_eps" in name], lr=0.1
    )
    for _ in range(60):
        with skippose.clips(5) as run:
            net(video())
        optimizer.zero_grad()
        (run.gate_loss() - 0.2).abs().backward()
        optimizer.step()
    with skippose.clips(5) as run, torch.no_grad():
        net.eval()(video())
    assert run.gate_loss().item() == pytest.approx(0.2, abs=0.05)
    assert net[0].gate.eps > 0.02 and net[0].gate.eps != net[2].gate.eps


def test_the_network_learns_through_the_gates():
    net = network(GumbelNormGate(0.2)).train()
    with skippose.clips(5):
        z = net(video())
    z.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net[0].gate.log_eps.grad != 0


def test_a_checkpoint_brings_its_threshold():
    learned, fresh = network(GumbelNormGate(0.2)), network(GumbelNormGate(0.5))
    fresh.load_state_dict(learned.state_dict())
    assert fresh[0].gate.eps == pytest.approx(0.2)
    assert fresh[0].gate.settings()["eps"] == 0.2
    assert fresh[0].gate.learns and not fresh[0].gate.train().always_open


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(eps=0.0), "eps must be positive.*0"),
        (dict(eps=-0.1), "eps.*-0.1"),
        (dict(eps=math.nan), "eps.*nan"),
        (dict(eps=0.1, sharpness=0), "sharpness.*0"),
        (dict(eps=0.1, sharpness=math.inf), "sharpness.*inf"),
        (dict(eps=0.1, temperature=0), "temperature.*0"),
        (dict(eps=0.1, noise=-1.0), r"noise.*-1\.0"),
    ],
)
def test_bad_arguments_name_what_was_found(arguments, message):
    with pytest.raises(ValueError, match=message):
        GumbelNormGate(**arguments)


def test_a_relative_threshold_needs_a_magnitude():
    with pytest.raises(ValueError, match="magnitude"):
        GumbelNormGate(0.1).train().decide(torch.ones(1, 1, 2, 2), None)
