"""The Gumbel gate: noise, gradient, initialisation and its place in a layer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import skippose
from skippose.gates import GumbelGate, InputNormGate
from skippose.ops import Convolution

torch.set_num_threads(1)


def bound_gate(conv: nn.Conv2d | None = None, **arguments: object) -> GumbelGate:
    return GumbelGate(**arguments).for_layer(conv or nn.Conv2d(2, 3, 3))


def share_open(logit: float, count: int = 200_000) -> float:
    torch.manual_seed(0)
    gate = bound_gate(init_open=logit).train()
    return gate.decide(torch.zeros(1, 1, 1, count), None).mean().item()


@pytest.mark.parametrize("logit", [0.0, 1.0, -2.0, 4.0])
def test_noise_is_logistic(logit):
    """P(logit + logistic noise > 0) = sigmoid(logit); 5 sigma of sampling error are allowed."""
    expected = 1 / (1 + math.exp(-logit))
    error = 5 * math.sqrt(expected * (1 - expected) / 200_000)
    assert share_open(logit) == pytest.approx(expected, abs=error)


def test_evaluation_has_no_noise_and_a_strict_threshold():
    gate = bound_gate(init_open=0.0).eval()
    score = torch.tensor([-1.0, 0.0, 1e-6, 2.0]).reshape(1, 1, 1, 4)
    opened = gate.decide(score, None)
    assert opened.dtype == torch.bool
    assert opened.flatten().tolist() == [False, False, True, True]


def test_gates_are_exactly_zero_or_one_in_training():
    gate = bound_gate(init_open=0.3).train()
    opened = gate.decide(torch.randn(1, 1, 100, 100), None)
    assert set(opened.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("temperature", [2 / 3, 0.1, 5.0])
def test_the_gradient_is_that_of_the_tempered_sigmoid(temperature):
    gate = bound_gate(init_open=0.5, temperature=temperature).double().train()
    score = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(11)
    gate.decide(score, None).sum().backward()

    torch.manual_seed(11)
    u = torch.rand_like(score).detach().numpy()
    noise = np.log(u) - np.log(1 - u)  # the inverse of the logistic distribution function
    soft = 1 / (1 + np.exp(-(score.detach().numpy() + 0.5 + noise) / temperature))
    expected = soft * (1 - soft) / temperature
    np.testing.assert_allclose(score.grad.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert gate.bias.grad.item() == pytest.approx(expected.sum())


def test_temperature_is_two_thirds_and_does_not_change_the_samples():
    assert GumbelGate().temperature == pytest.approx(2 / 3)
    samples = []
    for temperature in (0.2, 3.0):
        torch.manual_seed(5)
        gate = bound_gate(init_open=0.0, temperature=temperature).train()
        samples.append(gate.decide(torch.zeros(1, 1, 50, 50), None).detach())
    assert torch.equal(*samples)


def test_gates_start_open():
    gate = bound_gate()
    assert gate.init_open > 0
    assert gate.bias.item() == gate.init_open
    assert share_open(gate.init_open) > 0.9


@pytest.mark.parametrize("rectify", [False, True])
def test_phi_is_a_convolution_of_the_layers_shape_to_one_channel(rectify):
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=2)
    gate = bound_gate(conv.double(), rectify=rectify)
    change = torch.randn(2, 4, 8, 9, dtype=torch.float64)
    phi = nn.Conv2d(4, 1, (3, 2), (2, 1), (2, 0), (2, 1), bias=False).double()
    phi.weight.data.copy_(gate.weight.data)
    seen = change.abs() if rectify else change
    score = gate.score(seen if not rectify else change, Convolution.of(conv))
    torch.testing.assert_close(score, phi(seen))
    assert score.shape[2:] == conv(change).shape[2:]
    assert gate.macs_per_output(conv) == 4 * 3 * 2  # φ sees all channels, whatever the groups


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_phi_pads_as_the_layer_does(mode):
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
    gate = bound_gate(conv)
    phi = nn.Conv2d(2, 1, 3, padding=1, padding_mode=mode, bias=False)
    phi.weight.data.copy_(gate.weight.data)
    change = torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(gate.score(change, Convolution.of(conv)), phi(change))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    conv = nn.Conv2d(64, 3, 3, padding=1).to(dtype)
    gate = bound_gate(conv)
    assert gate.weight.dtype == dtype
    change = (3000 * torch.rand(1, 64, 5, 5)).to(dtype)
    nn.init.constant_(gate.weight, 1.0)
    score = gate.score(change, Convolution.of(conv))  # beyond the range of float16
    assert score.dtype == torch.float32
    truth = nn.functional.conv2d(change.double(), gate.weight.double(), padding=1)
    torch.testing.assert_close(score.double(), truth, rtol=1e-5, atol=1e-3)
    assert gate.eval().decide(score, None).all()
    assert gate.train().decide(score, None).isfinite().all()


def test_autocast_does_not_reach_the_logits():
    conv = nn.Conv2d(8, 3, 3, padding=1)
    gate, change = bound_gate(conv), torch.randn(1, 8, 6, 6)
    plain = gate.score(change, Convolution.of(conv))
    with torch.autocast("cpu", torch.bfloat16):
        cast = gate.score(change, Convolution.of(conv))
    assert torch.equal(cast, plain)


def mmengine_like_init(net: nn.Module) -> None:
    """What backbones do in ``init_weights``: every module that is a Conv2d or a norm."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def test_initialisation_survives_that_of_the_backbone():
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), GumbelGate())
    gate = net[0].gate
    weight, bias = gate.weight.detach().clone(), gate.bias.detach().clone()
    dense = net[0].weight.detach().clone()
    mmengine_like_init(net)
    assert not torch.equal(net[0].weight, dense)
    assert torch.equal(gate.weight, weight)
    assert torch.equal(gate.bias, bias)


@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_an_unchanged_output_is_closed_and_uncounted_in_training_too(reference):
    gate = GumbelGate(init_open=50.0, block_mode="fixed")  # noise cannot close it
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), gate, reference=reference)
    net.train()
    frames = torch.rand(1, 2, 8, 8).repeat(3, 1, 1, 1)
    frames[2, :, 0, 0] += 1  # seen by 2 x 2 of 64 outputs
    with skippose.clips(3) as run:
        net(frames)
    report = run.report(net)
    (layer,) = report.layers
    assert layer.density_sum == pytest.approx(4 / 64)
    assert layer.gate_density_sum == pytest.approx(4 / 64)
    assert report.gate_gmacs * 1e9 == pytest.approx(2 * 9 * 64 * (4 / 64) / 2)


def test_gradients_reach_phi_through_the_output_and_through_the_gate_loss():
    for through in ("output", "gate loss"):
        torch.manual_seed(0)
        net = skippose.convert(
            nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), GumbelGate(init_open=0.0)
        ).train()
        frames = torch.rand(4, 2, 8, 8)
        with skippose.clips(4) as run:
            z = net(frames)
        (z.square().sum() if through == "output" else run.gate_loss()).backward()
        gate = net[0].gate
        assert gate.weight.grad.abs().sum() > 0, through
        assert gate.bias.grad.abs().sum() > 0, through


def test_training_with_the_gate_loss_closes_the_gates():
    torch.manual_seed(0)
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), GumbelGate()).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=20.0)
    frames = torch.rand(8, 2, 8, 8)
    densities = []
    for _ in range(30):
        with skippose.clips(8) as run:
            net(frames)
        loss = run.gate_loss()
        densities.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert densities[0] > 0.8
    assert densities[-1] < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(temperature=0), "temperature.*0"),
        (dict(temperature=-1.0), r"temperature.*-1\.0"),
        (dict(temperature=math.nan), "temperature.*nan"),
        (dict(init_open=math.inf), "init_open.*inf"),
        (dict(init_open=math.nan), "init_open.*nan"),
        (dict(threshold=0.1), "rectify=True and a negative init_open.*False.*3"),
        (dict(threshold=0.1, rectify=True), "negative init_open.*3"),
        (dict(threshold=0.0, rectify=True, init_open=-1.0), "threshold.*0"),
        (dict(block=0), "block.*0"),
        (dict(source="both"), "source.*'both'"),
    ],
)
def test_bad_arguments_name_what_was_found(arguments, message):
    with pytest.raises(ValueError, match=message):
        GumbelGate(**arguments)


@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("block", [1, 3])
def test_with_a_threshold_it_begins_as_a_norm_gate(reference, block):
    settings = dict(block=block, block_mode="fixed")
    found = []
    for gate in (
        GumbelGate(rectify=True, threshold=0.07, init_open=-4.0, **settings),
        InputNormGate(0.07, scale="absolute", **settings),
    ):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        net = skippose.convert(net, gate, reference=reference).eval()
        torch.manual_seed(1)
        moves = (torch.rand(6, 1, 12, 10) < 0.2) * torch.rand(6, 1, 12, 10)
        frames = torch.rand(1, 3, 12, 10) + (moves * torch.randn(6, 3, 12, 10)).cumsum(0)
        with skippose.clips(6) as run, torch.no_grad():
            z = net(frames)
        found.append((z, run.report(net)))
    densities = [[layer.density_sum for layer in report.layers] for _, report in found]
    assert densities[0] == densities[1]
    assert all(0 < density < 5 for density in densities[0])
    torch.testing.assert_close(found[0][0], found[1][0])


def test_only_gumbel_gates_learn():
    assert bound_gate().learns
    assert not bound_gate().always_open
    assert not InputNormGate(0.1, train_gates=True).learns
