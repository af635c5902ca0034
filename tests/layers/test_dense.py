"""Layers that are never skipped: their MACs, and random ones that draw once per clip."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import skippose
from skippose import InputNormGate
from skippose.layers import ClipConsistent

torch.set_num_threads(1)


class Counted(nn.Module):
    """A gated convolution, so that there are frames, beside the layer in question."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.layer = layer

    def forward(self, frames: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.conv(frames)
        return self.layer(x)


LAYERS = {
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 9, 8)),
    "grouped conv": (nn.Conv2d(4, 8, (3, 2), groups=2, bias=False), (4, 9, 8)),
    "depthwise conv": (nn.Conv2d(4, 4, 3, groups=4), (4, 9, 8)),
    "transposed conv": (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (4, 5, 7)),
    "grouped transposed conv": (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 7)),
    "conv 1d": (nn.Conv1d(4, 6, 3), (4, 9)),
    "transposed conv 1d": (nn.ConvTranspose1d(4, 6, 3, stride=3), (4, 9)),
    "conv 3d": (nn.Conv3d(4, 6, 3), (4, 5, 6, 7)),
    "linear": (nn.Linear(10, 7), (10,)),
    "linear on tokens": (nn.Linear(10, 7, bias=False), (5, 3, 10)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_macs_of_dense_layers_are_half_the_flop_counters(name):
    layer, shape = LAYERS[name]
    frames, x = torch.rand(6, 3, 8, 8), torch.rand(6, *shape)  # 2 clips of 3 frames
    with FlopCounterMode(display=False) as counter:
        layer(x)
    net = skippose.convert(
        Counted(layer), InputNormGate(0.1), filter_fn=lambda module, name: name == "conv"
    )
    with skippose.clips(3) as run:
        net(frames, x)
    costs = {cost.name: cost for cost in run.report(net).layers}
    assert costs["layer"].macs * 6 * 2 == counter.get_total_flops()
    assert not costs["layer"].gated


def test_macs_do_not_depend_on_which_layer_comes_first():
    """A linear layer ahead of all images: its input does not tell the frames' size."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 48), nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 4, 3)
    )
    net = skippose.convert(net, InputNormGate(0.1))
    with skippose.clips(2) as run:
        net(torch.rand(6, 3, 4, 4))
    macs = {cost.name: cost.macs for cost in run.report(net).layers}
    assert macs == {"1": 48 * 48, "3": 3 * 4 * 9 * 2 * 2}


def test_dense_layers_are_counted_when_called_by_keyword():
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(input=self.conv(x).mean((2, 3)))

    net = skippose.convert(Head(), InputNormGate(0.1))
    with skippose.clips(2) as run:
        net(torch.rand(2, 3, 4, 4))
    assert {cost.name: cost.macs for cost in run.report(net).layers}["fc"] == 8


def test_dense_layers_count_nothing_outside_clips():
    net = skippose.convert(Counted(nn.Linear(4, 2)), InputNormGate(0.1))
    frames, x = torch.rand(2, 3, 4, 4), torch.rand(2, 4)
    net(frames, x)
    with skippose.clips(2) as run:
        net(frames, x)
    net(frames, x)
    assert [cost.name for cost in run.report(net).layers] == ["conv", "layer"]


class DropPath(nn.Module):
    """As in timm and mmcv: whole samples are dropped."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1)) >= self.p
        return x * kept / (1 - self.p)


RANDOM = {
    "dropout": nn.Dropout(0.3),
    "dropout in place": nn.Dropout(0.3, inplace=True),
    "dropout 2d": nn.Dropout2d(0.3),
    "drop path": DropPath(0.3),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_layers_draw_once_per_clip(name):
    torch.manual_seed(0)
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 3, 1), RANDOM[name]), InputNormGate(0.1))
    assert isinstance(net[1], ClipConsistent)
    nn.init.ones_(net[0].weight)
    with skippose.clips(4):
        z = net(torch.ones(800, 3, 4, 4)).unflatten(0, (200, 4))
    assert torch.equal(z, z[:, :1].expand_as(z)), "flicker within a clip"
    masks = z[:, 0] != 0
    # Independent between clips: all kinds of clips occur.
    assert len(torch.unique(masks.flatten(1), dim=0)) > 1
    # E[mask] = 0.7 within 5 sigma of the number of draws; kept values are scaled by 1 / 0.7.
    draws = {"drop path": 200, "dropout 2d": 600}.get(name, 200 * 48)
    error = 5 * (0.3 * 0.7 / draws) ** 0.5
    assert masks.double().mean().item() == pytest.approx(0.7, abs=error)
    bias = net[0].bias.detach()[None, :, None, None]
    kept = ((3 + bias) / 0.7).expand(200, 3, 4, 4)[masks]
    torch.testing.assert_close(z[:, 0][masks], kept)


@pytest.mark.parametrize("name", RANDOM)
def test_random_layers_are_the_ordinary_ones_outside_clips_and_in_evaluation(name):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), RANDOM[name])
    skip = skippose.convert(net, InputNormGate(0.0))
    x = torch.rand(8, 3, 4, 4)
    results = []
    for network in (net, skip):
        torch.manual_seed(4)
        results.append(network.train()(x.clone()))
    assert torch.equal(*results)
    skip.eval()
    with skippose.clips(4), torch.no_grad():
        torch.testing.assert_close(skip(x), net.eval()(x))


def test_a_network_may_read_the_attributes_of_its_random_layers():
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout(0.3)), InputNormGate(0.1))
    assert net[1].p == 0.3
    with pytest.raises(AttributeError, match="'Dropout' object has no attribute 'q'"):
        _ = net[1].q
    assert copy.deepcopy(net)[1].p == 0.3


def test_dropout_on_vectors_behind_a_pooled_feature_map():
    """The classifier of most networks: (N, C) and not (N, C, H, W)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5))
    net = skippose.convert(net, InputNormGate(0.1)).train()
    with skippose.clips(4):
        z = net(torch.rand(1, 3, 4, 4).expand(8, -1, -1, -1)).unflatten(0, (2, 4))
    assert torch.equal(z, z[:, :1].expand_as(z))
    assert not torch.equal(z[0], z[1])


def test_a_dropped_frame_does_not_look_like_motion():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, 4, 3))
    net = skippose.convert(net, InputNormGate(0.1, train_gates=True)).train()
    with skippose.clips(5) as run:
        net(torch.rand(2, 1, 3, 8, 8).expand(-1, 5, -1, -1, -1).flatten(0, 1))
    assert run.report(net).densities == {"0": 0.0, "2": 0.0}


def test_gradients_pass_through_a_clips_draw():
    torch.manual_seed(0)
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5)), None).train()
    x = torch.rand(4, 3, 4, 4, requires_grad=True)
    with skippose.clips(4):
        z = net(x)
    z.sum().backward()
    zero = (z == 0).all(1)
    assert zero.any()
    assert (x.grad.abs().sum(1)[zero] == 0).all()
    assert (x.grad.abs().sum(1)[~zero] > 0).all()
