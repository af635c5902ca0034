"""One test for every defect of the operator that the paper's authors published.

They are those found in the public code of Skip-Convolutions (Habibian et al., CVPR 2021); each
test fails with that code's behaviour.
"""

import pytest
import torch
from torch import nn

import skippose
from skippose import ExactNormGate, GumbelGate, InputNormGate, OutputNormGate, Stream
from skippose.ops import Convolution

torch.set_num_threads(1)

POLICIES = ["hold", "previous"]


def both_forms(net: nn.Module, frames: torch.Tensor) -> list[torch.Tensor]:
    """(T, C, H, W) through clips and through a stream."""
    with skippose.clips(len(frames)), torch.no_grad():
        clip = net(frames)
    stream = Stream(net)
    return [clip, torch.cat([stream(frame[None]) for frame in frames])]


@pytest.mark.parametrize("reference", POLICIES)
def test_the_bias_enters_once(reference):
    # Defect: the bias was added again on every frame, so outputs grew by b a frame.
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    nn.init.constant_(conv.bias, 10.0)
    net = skippose.convert(nn.Sequential(conv), InputNormGate(0.0), reference=reference).eval()
    frames = torch.rand(6, 2, 5, 5, dtype=torch.float64)
    for z in both_forms(net, frames):
        torch.testing.assert_close(z, conv(frames).detach())
    still = frames[:1].expand(6, -1, -1, -1)
    for z in both_forms(net, still):
        torch.testing.assert_close(z, conv(still).detach())


@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("T", [1, 3])
def test_an_in_place_activation_does_not_reach_the_state(reference, T):
    # Defect: the output was cached by reference, so an in-place ReLU behind the layer clipped it.
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    net = nn.Sequential(conv, nn.ReLU(inplace=True))
    net = skippose.convert(net, InputNormGate(0.0), reference=reference).eval()
    frames = torch.randn(6, 2, 5, 5, dtype=torch.float64)
    expected = conv(frames).detach().relu()
    assert (conv(frames) < 0).any()
    for z in both_forms(net, frames):
        torch.testing.assert_close(z, expected)
    state, chunks = None, []
    for start in range(0, 6, T):
        with skippose.clips(T, state=state, keep_state=True) as run, torch.no_grad():
            chunks.append(net(frames[start : start + T]))
        state = run.state
    torch.testing.assert_close(torch.cat(chunks), expected)


def test_in_place_changes_of_the_input_do_not_reach_the_state():
    # Defect: likewise for the cached input, which a later addition in place may overwrite.
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.conv(x)
            x += out
            return x

    block = Block().double()
    frames = torch.randn(5, 2, 5, 5, dtype=torch.float64)
    expected = frames + block.conv(frames).detach()
    for reference in POLICIES:
        for gate in (InputNormGate(0.0), ExactNormGate(0.0), GumbelGate(init_open=1e6)):
            net = skippose.convert(block, gate, reference=reference).eval()
            stream = Stream(net)
            steps = torch.cat([stream(frame[None].clone()) for frame in frames])
            torch.testing.assert_close(steps, expected)
            with skippose.clips(5), torch.no_grad():
                torch.testing.assert_close(net(frames.clone()), expected)


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (4, 16), (13, 7)])
@pytest.mark.parametrize("gate_class", [InputNormGate, OutputNormGate])
def test_norms_are_means_over_the_receptive_field_whatever_the_map(size, gate_class):
    # Defect: the norm was divided by the map's height instead of the number of channels.
    conv = nn.Conv2d(5, 2, 1)
    gate = gate_class(0.1).for_layer(conv)
    score = gate.score(torch.full((1, 5, *size), 3.0), Convolution.of(conv))
    factor = 1.0
    if gate_class is OutputNormGate:
        factor = conv.weight.detach().abs().sum((1, 2, 3)).mean().item()
    torch.testing.assert_close(score, torch.full((1, 1, *size), 3.0 * factor))


@pytest.mark.parametrize("block_mode", ["fixed", "scaled"])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("size", [(8, 6), (6, 8), (9, 17), (3, 3), (1, 1)])
@pytest.mark.parametrize("gate", [InputNormGate, GumbelGate])
def test_blocks_need_not_divide_the_map(block_mode, reference, size, gate):
    # Defect: block 8 failed on an 8 x 6 map.
    arguments = dict(block=8, block_mode=block_mode)
    template = InputNormGate(0.1, **arguments) if gate is InputNormGate else gate(**arguments)
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    net = skippose.convert(nn.Sequential(conv), template, reference=reference).eval()
    frames = torch.rand(1, 2, *size, dtype=torch.float64).repeat(4, 1, 1, 1)
    frames[1:, :, -1, -1] += 5  # in the ragged last block
    dense = conv(frames).detach()
    for z in both_forms(net, frames):
        assert z.shape == (4, 3, *size)
        if gate is InputNormGate and block_mode == "fixed" and max(size) <= 8:
            torch.testing.assert_close(z[1], dense[1])  # one block, and it changed enough
    if gate is InputNormGate:
        for z in both_forms(net, frames):
            torch.testing.assert_close(z[1][:, -2:, -2:], dense[1][:, -2:, -2:])


def test_a_logit_of_zero_opens_every_other_time():
    # Defect: a single Gumbel instead of the difference of two opened it with 1 - 1/e = 0.63.
    torch.manual_seed(0)
    gate = GumbelGate(init_open=0.0).for_layer(nn.Conv2d(1, 1, 1)).train()
    share = gate.decide(torch.zeros(1, 1, 400, 500), None).mean().item()
    assert share == pytest.approx(0.5, abs=5 * 0.5 / 200_000**0.5)


@pytest.mark.parametrize("reference", POLICIES)
def test_a_new_video_begins_in_every_layer(reference):
    # Defect: eval() was the reset, and it reset only the layer that it was called on; the others
    # went on from the last video.
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 2, 1)
    ).double()
    net = skippose.convert(dense, InputNormGate(1e6), reference=reference).eval()
    first, second = torch.rand(2, 3, 1, 2, 8, 8, dtype=torch.float64)
    stream = Stream(net)
    for frame in first:
        stream(frame)
    stream.reset()
    for frame in second:
        torch.testing.assert_close(stream(frame), dense(second[0]).detach())
    # And no mode of a module is a reset: eval() of a part leaves a stream as it is.
    net[0].eval()
    net.eval()
    torch.testing.assert_close(stream(first[0]), dense(second[0]).detach())


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("gate", ["norm", "gumbel"])
def test_macs_are_per_frame_whatever_the_batch(batch, gate):
    # Defect: the MACs of a gate, of one sample, were added to a sum over the batch.
    template = (
        InputNormGate(0.0, block_mode="fixed")
        if gate == "norm"
        else GumbelGate(init_open=1e6, block_mode="fixed")
    )
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), template).eval()
    frames = torch.rand(1, 2, 6, 6).repeat(3, 1, 1, 1)
    frames[1:, :, 0, 0] += 1  # 2 x 2 outputs change in frame 2, none in frame 3
    with skippose.clips(3) as run, torch.no_grad():
        net(frames.repeat(batch, 1, 1, 1))
    stream = Stream(net)
    for frame in frames:
        stream(frame.expand(batch, -1, -1, -1))
    for report in (run.report(net), stream.report()):
        assert report.dense_gmacs * 1e9 == 36 * 2 * 3 * 9
        phi = 2 * 9 if gate == "gumbel" else 0
        assert report.gmacs * 1e9 == pytest.approx(4 / 2 * (2 * 3 * 9 + phi))
        assert report.gate_gmacs * 1e9 == pytest.approx(4 / 2 * phi)
