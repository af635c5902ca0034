"""Bad input that no other file has: what is raised where, and that nothing is half done."""

import pytest
import torch
from torch import nn

import skippose
from skippose import GumbelGate, InputNormGate, Stream
from skippose.ops import Convolution, GatedConvolution, skip_conv_step

torch.set_num_threads(1)


def test_a_frame_whose_values_overflow_within_the_network_is_not_an_error():
    """Only frames are checked: what a network makes of them is its own affair."""
    net = skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 1)), InputNormGate(0.1)).eval()
    nn.init.constant_(net[0].weight, 1e38)
    stream = Stream(net)
    assert not stream(torch.full((1, 1, 2, 2), 1e3)).isfinite().all()


def test_a_slot_with_inf_names_only_itself():
    net = skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 1)), InputNormGate(0.1)).eval()
    stream = Stream(net)
    frame = torch.zeros(4, 1, 3, 3)
    frame[1, 0, 0, 0], frame[3, 0, 2, 2] = -torch.inf, torch.nan
    with pytest.raises(ValueError, match=r"slots \[1, 3\]"):
        stream(frame)


def test_a_frame_too_small_for_a_layer_names_sizes_and_changes_nothing():
    net = skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 5)), InputNormGate(0.1)).eval()
    stream = Stream(net)
    with pytest.raises(ValueError, match="3x4.*5x5"):
        stream(torch.zeros(1, 1, 3, 4))
    assert stream.slots is None
    stream(torch.zeros(1, 1, 6, 6))


def test_a_frame_with_the_wrong_channels_leaves_a_new_stream_new():
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 1, 3)), InputNormGate(0.1)).eval()
    stream = Stream(net)
    with pytest.raises(RuntimeError, match="3 channels"):
        stream(torch.zeros(1, 1, 6, 6))
    assert stream.slots is None
    stream(torch.zeros(1, 3, 6, 6))


def test_a_state_made_by_another_configuration():
    conv = nn.Conv2d(2, 2, 3)
    hold = GatedConvolution(Convolution.of(conv), InputNormGate(0.1).for_layer(conv), "hold")
    other = GatedConvolution(Convolution.of(conv), InputNormGate(0.1).for_layer(conv), "previous")
    linear = GatedConvolution(Convolution.of(conv), GumbelGate().for_layer(conv).eval(), "hold")
    x = torch.rand(1, 2, 6, 6)
    state = skip_conv_step(x, hold).state
    for layer in (other, linear):
        with pytest.raises(ValueError, match="another configuration"):
            skip_conv_step(x, layer, state)


def test_a_converted_network_of_which_a_gate_changed_its_kind_between_frames():
    """A gate that was swapped under a running stream is an error, not another result."""
    net = skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 3)), InputNormGate(0.1)).eval()
    stream = Stream(net, backend="eager")  # captured ones read the gates when a video begins
    stream(torch.rand(1, 1, 6, 6))
    skippose.convert_(net, GumbelGate())
    net.eval()
    with pytest.raises(ValueError, match="'0'"):
        stream(torch.rand(1, 1, 6, 6))
