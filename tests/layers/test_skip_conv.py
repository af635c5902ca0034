"""SkipConv2d: nn.Conv2d wherever nobody asked for gates."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import skippose
from skippose import GumbelGate, InputNormGate, SkipConv2d
from skippose.layers import active_pass

torch.set_num_threads(1)

SHAPES = {
    "plain": dict(kernel_size=3),
    "strided": dict(kernel_size=3, stride=2, padding=1),
    "dilated": dict(kernel_size=(3, 1), dilation=(2, 1), padding=(2, 0), bias=False),
    "grouped": dict(kernel_size=3, groups=4, padding=1),
    "same": dict(kernel_size=4, padding="same"),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "circular": dict(kernel_size=3, padding=(2, 1), padding_mode="circular"),
}
GATES = {"norm": InputNormGate(0.1), "gumbel": GumbelGate(), "none": None}


def pair(name: str = "plain", gate: str = "norm", **more) -> tuple[nn.Conv2d, SkipConv2d]:
    """An ordinary convolution and a skip convolution with its weights."""
    conv = nn.Conv2d(4, 8, **SHAPES[name], **more)
    skip = SkipConv2d(4, 8, **SHAPES[name], **more, gate=GATES[gate])
    missing = skip.load_state_dict(conv.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("gate.") for key in missing.missing_keys)
    return conv, skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("training", [False, True])
def test_outside_clips_it_is_the_ordinary_convolution(name, gate, training):
    conv, skip = pair(name, gate)
    skip.train(training)
    x = torch.randn(3, 4, 9, 8)
    assert torch.equal(skip(x), conv(x))
    assert torch.equal(skip(x[0]), conv(x[0])), "an image without batch dimension"


def test_gradients_outside_clips_are_the_ordinary_ones():
    conv, skip = pair()
    x = torch.randn(3, 4, 9, 8)
    for layer in (conv, skip):
        layer(x).square().sum().backward()
    assert torch.equal(conv.weight.grad, skip.weight.grad)
    assert torch.equal(conv.bias.grad, skip.bias.grad)


def test_the_input_can_be_given_by_name_as_for_an_ordinary_convolution():
    conv, skip = pair()
    x = torch.randn(1, 4, 9, 8)
    assert torch.equal(skip(input=x), conv(input=x))


@pytest.mark.parametrize("gate", GATES)
def test_export(gate):
    conv, skip = pair(gate=gate)
    x = torch.randn(2, 4, 9, 8)
    exported = torch.export.export(skip.eval(), (x,))
    assert torch.equal(exported.module()(x), conv(x))


@pytest.mark.parametrize("gate", GATES)
def test_jit_trace(gate):
    conv, skip = pair(gate=gate)
    traced = torch.jit.trace(skip.eval(), torch.randn(2, 4, 9, 8))
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(traced(x), conv(x))


def net_pair(gate: str) -> tuple[nn.Module, nn.Module]:
    dense = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 1)
    ).eval()
    return dense, skippose.convert(dense, GATES[gate])


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("training", [False, True])
def test_fx_symbolic_trace(gate, training):
    dense, net = net_pair(gate)
    graph = torch.fx.symbolic_trace(net.train(training)).eval()
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(graph(x), dense(x))
    # As of nn.Conv2d the calls are kept, and so the gates.
    results = []
    for each in (net.eval(), graph):
        with torch.no_grad(), skippose.clips(2) as run:
            results.append((each(x), run.report(each)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_a_hook_is_called_once_in_a_symbolic_trace():
    _, net = net_pair("norm")
    net[0].register_forward_hook(lambda module, args, output: output + 1)
    graph = torch.fx.symbolic_trace(net)
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(graph(x), net(x))


@pytest.mark.parametrize("gate", GATES)
def test_a_converted_network_can_be_exported_and_traced(gate):
    dense, net = net_pair(gate)
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), dense(x))
    assert torch.equal(torch.jit.trace(net, x)(x), dense(x))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("training", [False, True])
def test_exports_and_copies_after_a_gated_pass(gate, training):
    dense, net = net_pair(gate)
    x = torch.randn(2, 4, 9, 8)
    for tool in (
        lambda m: torch.export.export(m, (x,)).module(),
        lambda m: torch.jit.trace(m, x),
        torch.fx.symbolic_trace,
        copy.deepcopy,
    ):
        net.train(training)
        with skippose.clips(2):
            net[0](x)
            net[3](torch.randn(2, 8, 4, 4))
        net.eval()
        assert torch.equal(tool(net)(x), dense(x))


@pytest.mark.parametrize("gate", GATES)
def test_it_is_part_of_a_compiled_graph_outside_clips(gate):
    dense, net = net_pair(gate)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(torch.compile(net, backend=backend, fullgraph=True)(x), dense(x))
    assert len(graphs) == 1


@pytest.mark.parametrize("name", SHAPES)
def test_flop_counter_sees_the_ordinary_convolution(name):
    conv, skip = pair(name, gate="gumbel")
    counts = []
    for layer in (conv, skip):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(2, 4, 9, 8))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_state_dict_keys_are_the_ordinary_ones_and_the_gates():
    assert set(pair(gate="none")[1].state_dict()) == {"weight", "bias"}
    assert set(pair(gate="norm")[1].state_dict()) == {"weight", "bias", "gate.magnitude"}
    keys = {"weight", "bias", "gate.weight", "gate.bias"}
    assert set(pair(gate="gumbel")[1].state_dict()) == keys


@pytest.mark.parametrize("gate", GATES)
def test_a_forward_pass_leaves_nothing_in_the_module(gate):
    """State lives with the caller: nothing is added, nothing grows."""
    _, skip = pair(gate=gate)
    skip.eval()
    before = {k: v.clone() for k, v in skip.state_dict().items()}
    attributes = set(vars(skip))
    with skippose.clips(3), torch.no_grad():
        skip(torch.randn(3, 4, 9, 8))
    if gate != "none":
        skippose.Stream(skip)(torch.randn(1, 4, 9, 8))
    assert set(vars(skip)) == attributes
    assert not any(isinstance(v, torch.Tensor) for v in vars(skip).values())
    assert all(torch.equal(before[k], v) for k, v in skip.state_dict().items())


def copies(layer: SkipConv2d) -> list[SkipConv2d]:
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
    ]


@pytest.mark.parametrize("gate", ["norm", "gumbel"])
def test_copies_have_gates_of_their_own_and_the_same_results(gate):
    _, skip = pair(gate=gate)
    skip.eval()
    x = torch.randn(4, 4, 9, 8).cumsum(0)
    with skippose.clips(4), torch.no_grad():
        expected = skip(x)
    for again in copies(skip):
        assert again.gate is not skip.gate
        assert again.gate.settings() == skip.gate.settings()
        assert again.reference == skip.reference
        with skippose.clips(4), torch.no_grad():
            assert torch.equal(again(x), expected)


def test_a_copy_can_be_made_within_a_gated_pass():
    _, skip = pair()
    with skippose.clips(2):
        skip(torch.randn(2, 4, 9, 8))
        copies(skip)


def test_from_conv_shares_parameters_and_leaves_the_original_alone():
    conv = nn.Conv2d(4, 8, 3, bias=False).requires_grad_(False).eval()
    skip = SkipConv2d.from_conv(conv, GumbelGate())
    assert type(conv) is nn.Conv2d
    assert set(conv.state_dict()) == {"weight"}
    assert not hasattr(conv, "gate")
    assert skip.weight is conv.weight
    assert skip.bias is None
    assert not skip.training and not skip.gate.training
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(skip(x), conv(x))


def test_from_conv_takes_hooks_over_and_keeps_later_ones_apart():
    seen = []
    conv = nn.Conv2d(4, 8, 3)
    conv.register_forward_hook(lambda *_: seen.append("old"))
    skip = SkipConv2d.from_conv(conv, InputNormGate(0.1))
    skip.register_forward_hook(lambda *_: seen.append("new"))
    x = torch.randn(2, 4, 9, 8)
    skip(x)
    assert seen == ["old", "new"]
    conv(x)
    assert seen == ["old", "new", "old"], "a hook on the copy must not fire on the original"


def test_gates_follow_the_layers_device_and_dtype():
    skip = SkipConv2d(4, 8, 3, gate=GumbelGate(), dtype=torch.float64)
    assert skip.gate.weight.dtype == torch.float64
    assert skip.to(torch.bfloat16).gate.weight.dtype == torch.bfloat16
    meta = SkipConv2d(4, 8, 3, gate=GumbelGate(), device="meta")
    assert meta.gate.weight.device.type == "meta"


def test_gates_from_a_config():
    skip = SkipConv2d(4, 8, 3, gate=dict(type="InputNormGate", eps=0.3), reference="previous")
    assert isinstance(skip.gate, InputNormGate)
    assert (skip.gate.eps, skip.reference) == (0.3, "previous")


def test_one_template_gives_each_layer_its_own_gate():
    template = InputNormGate(0.1)
    a, b = (SkipConv2d(2, 2, 1, gate=template) for _ in range(2))
    assert a.gate is not b.gate and a.gate is not template


def test_set_gate_replaces_and_removes():
    _, skip = pair(gate="gumbel")
    skip.set_gate(InputNormGate(0.1), "previous")
    assert set(skip.state_dict()) == {"weight", "bias", "gate.magnitude"}
    skip.set_gate(None)
    assert set(skip.state_dict()) == {"weight", "bias"}
    with skippose.clips(2) as run:
        skip(torch.randn(2, 4, 9, 8))
    assert not run.report(skip).layers[0].gated


def test_an_unknown_reference_lists_those_there_are():
    with pytest.raises(ValueError, match="reference.*hold.*previous.*'next'"):
        SkipConv2d(2, 2, 1, gate=InputNormGate(0.1), reference="next")


def test_a_failed_set_gate_changes_nothing():
    _, skip = pair()
    gate, reference = skip.gate, skip.reference
    with pytest.raises(ValueError):
        skip.set_gate(InputNormGate(0.2), "next")
    with pytest.raises(KeyError):
        skip.set_gate(dict(type="Nothing"), "previous")
    assert skip.gate is gate and skip.reference == reference


def test_a_layer_without_a_gate_has_no_gated_operation():
    with pytest.raises(ValueError, match="no gate"):
        pair(gate="none")[1].gated((8, 8), 8, 8)


def test_no_pass_is_active_outside():
    assert active_pass() is None
    with skippose.clips(2) as run:
        assert active_pass() is run
        pair()[1](torch.randn(2, 4, 9, 8))
    assert active_pass() is None


@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_channels_last_gives_the_same(reference):
    skip = SkipConv2d(4, 8, 3, padding=1, gate=InputNormGate(0.2), reference=reference).eval()
    skip.double()
    x = torch.randn(6, 4, 9, 8, dtype=torch.float64)
    x[1:3] = x[0] + 0.01 * x[1:3]
    results = []
    for frames in (x, x.to(memory_format=torch.channels_last)):
        with skippose.clips(6) as run, torch.no_grad():
            z = skip(frames)
        stream = skippose.Stream(skip)
        steps = torch.cat([stream(frames[t : t + 1]) for t in range(6)])
        torch.testing.assert_close(steps, z)
        results.append((z, run.report(skip).densities))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
