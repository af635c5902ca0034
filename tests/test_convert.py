"""Converting networks: what is swapped, what stays, what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import skippose
from skippose import GumbelGate, InputNormGate, OutputNormGate, SkipConv2d
from skippose.convert import introduce
from skippose.layers import ClipConsistent

torch.set_num_threads(1)


class Net(nn.Module):
    """A stem, two stages and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True))
        self.stage2 = nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(True), nn.Conv2d(6, 6, 1, bias=False)
        )
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.stage2(self.stage1(self.stem(x))))
        return self.fc(x.mean((2, 3)))


CONVS = ["stem", "stage1.0", "stage2.0", "stage2.2"]
GATE = InputNormGate(0.1)


def gates_of(net: nn.Module) -> dict[str, float | None]:
    """The eps of every skip convolution; None for those without a gate."""
    return {
        name: None if module.gate is None else module.gate.eps
        for name, module in net.named_modules()
        if isinstance(module, SkipConv2d)
    }


def types_of(net: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in net.named_modules()}


def test_a_copy_leaves_the_network_alone():
    net = Net()
    types, state = types_of(net), copy.deepcopy(net.state_dict())
    new = skippose.convert(net, GATE)
    assert gates_of(new) == dict.fromkeys(CONVS, 0.1)
    assert types_of(net) == types
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert not any(module._forward_hooks for module in net.modules())
    with torch.no_grad():
        new.stem.weight.zero_()
    assert net.stem.weight.any()


def test_in_place_keeps_the_network_and_its_parameters():
    net = Net()
    stem, parameters = net.stem, dict(net.named_parameters())
    state = copy.deepcopy(net.state_dict())
    assert skippose.convert_(net, GATE) is net
    assert type(net.stem) is SkipConv2d and type(stem) is nn.Conv2d
    after = dict(net.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())
    extra = set(net.state_dict()) - set(state)
    assert extra == {f"{name}.gate.magnitude" for name in CONVS}
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())


def test_a_dense_checkpoint_loads():
    checkpoint = Net().state_dict()
    net = skippose.convert(Net(), GumbelGate())
    found = net.load_state_dict(checkpoint, strict=False)
    assert not found.unexpected_keys
    assert all(".gate." in key for key in found.missing_keys)


def test_the_network_is_dense_outside_clips():
    net = Net().eval()
    x = torch.rand(4, 3, 9, 9)
    assert torch.equal(skippose.convert(net, GATE)(x), net(x))


def test_training_mode_and_frozen_parameters_stay():
    net = Net().eval()
    net.stem.requires_grad_(False)
    net.stage2.train()
    new = skippose.convert(net, GATE)
    assert not new.stem.training and not new.stem.gate.training
    assert new.stage2[0].training and new.stage2[0].gate.training
    assert not new.stem.weight.requires_grad
    assert not new.drop.training, "a wrapper has the mode of what it wraps"


def test_filter_sees_module_and_name():
    seen = {}

    def only_3x3(module: nn.Module, name: str) -> bool:
        seen[name] = module
        return module.kernel_size == (3, 3)

    net = skippose.convert(Net(), GATE, filter_fn=only_3x3)
    assert list(seen) == CONVS
    assert list(gates_of(net)) == CONVS[:3]
    assert type(net.stage2[2]) is nn.Conv2d


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"stem": None}, {"stage1.0": 0.1, "stage2.0": 0.1, "stage2.2": 0.1}),
        ({"stem": InputNormGate(0.5)}, {"stem": 0.5}),
        ({"stage*": InputNormGate(0.5)}, {"stage1.0": 0.5, "stage2.0": 0.5, "stage2.2": 0.5}),
        ({"stage?.0": dict(type="InputNormGate", eps=0.5)}, {"stage1.0": 0.5, "stage2.0": 0.5}),
        (
            {"stage2.0": InputNormGate(0.7), "stage*": InputNormGate(0.5), "*": InputNormGate(0.3)},
            {"stage2.0": 0.7, "stage1.0": 0.3, "stem": 0.3},
        ),
        (
            {"*": InputNormGate(0.3), "stage2.*": InputNormGate(0.5)},
            {"stem": 0.3, "stage1.0": 0.3, "stage2.0": 0.5, "stage2.2": 0.5},
        ),
    ],
    ids=["none", "exact", "glob", "config", "exact beats later globs", "last glob wins"],
)
def test_overrides(overrides, expected):
    gates = gates_of(skippose.convert(Net(), GATE, overrides=overrides))
    for name, eps in expected.items():
        assert gates[name] == eps, name
    if overrides == {"stem": None}:
        assert gates.get("stem") is None


def test_overrides_win_over_the_filter():
    net = skippose.convert(
        Net(), GATE, filter_fn=lambda module, name: False, overrides={"stem": InputNormGate(0.4)}
    )
    assert gates_of(net) == {"stem": 0.4}


@pytest.mark.parametrize("pattern", ["steem", "fc", "drop", "stage3.*", "Stem"])
def test_an_override_that_matches_no_convolution_is_an_error(pattern):
    net = Net()
    types = types_of(net)
    with pytest.raises(ValueError, match="overrides.*stem") as caught:
        skippose.convert_(net, GATE, overrides={"stage1.0": None, pattern: None})
    assert repr(pattern) in str(caught.value)
    assert types_of(net) == types


def test_without_a_template_only_overrides_are_gated():
    net = skippose.convert(Net(), None, overrides={"stage2.*": InputNormGate(0.2)})
    assert gates_of(net) == {"stage2.0": 0.2, "stage2.2": 0.2}


def test_templates_are_not_shared_between_layers():
    net = skippose.convert(Net(), OutputNormGate(0.1))
    gates = [m.gate for m in net.modules() if isinstance(m, SkipConv2d)]
    assert len({id(gate) for gate in gates}) == 4


def test_the_reference_reaches_every_layer():
    net = skippose.convert(Net(), GATE, reference="previous")
    assert {m.reference for m in net.modules() if isinstance(m, SkipConv2d)} == {"previous"}
    with pytest.raises(ValueError, match="reference.*hold.*'last'"):
        skippose.convert(Net(), GATE, reference="last")


def test_random_layers_are_wrapped_once():
    net = skippose.convert(Net(), GATE)
    assert isinstance(net.drop, ClipConsistent)
    skippose.convert_(net, GATE)
    assert isinstance(net.drop, ClipConsistent)
    assert isinstance(net.drop.module, nn.Dropout)


class Twice(nn.Module):
    """One convolution under two parents and under two names of one parent."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Conv2d(3, 3, 3, padding=1)
        self.a, self.b = nn.Sequential(shared), nn.Sequential(nn.ReLU(), shared)
        self.chain = nn.Sequential(shared, nn.ReLU(), shared)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.chain(self.b(self.a(x)))


def test_a_module_shared_by_two_parents_stays_shared():
    net = skippose.convert(Twice(), GATE)
    assert type(net.a[0]) is SkipConv2d
    assert net.a[0] is net.b[1]


def test_a_module_with_two_names_in_one_parent_stays_shared():
    net = skippose.convert(Twice(), GATE)
    assert type(net.chain[0]) is SkipConv2d
    assert net.chain[0] is net.chain[2]


def test_an_override_may_use_any_name_of_a_shared_layer():
    net = skippose.convert(Twice(), GATE, overrides={"chain.2": None})
    assert type(net.chain[0]) is nn.Conv2d
    assert net.chain[0] is net.chain[2]
    asked = []
    skippose.convert(Twice(), GATE, filter_fn=lambda module, name: asked.append(name) is None)
    assert asked == ["a.0"]


def test_a_shared_layer_has_a_state_for_each_of_its_calls():
    net = skippose.convert(Twice(), InputNormGate(0.0)).double().eval()
    frames = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    with skippose.clips(5) as run, torch.no_grad():
        z = net(frames)
    torch.testing.assert_close(z, net(frames))
    assert [cost.name for cost in run.report(net).layers] == ["a.0", "a.0#1", "a.0#2", "a.0#3"]


def test_random_layers_shared_within_one_parent_draw_once_everywhere():
    drop = nn.Dropout(0.5)
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 2, 1), drop, nn.ReLU(), drop), GATE).train()
    with skippose.clips(4):
        z = net(torch.ones(8, 2, 4, 4)).unflatten(0, (2, 4))
    assert torch.equal(z, z[:, :1].expand_as(z))


class OwnForward(nn.Conv2d):
    """A convolution that does something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class OwnConvForward(nn.Conv2d):
    """The same, one method deeper."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight - weight.mean(), bias)


def reparametrised() -> nn.Conv2d:
    conv = nn.Conv2d(3, 3, 3)
    parametrize.register_parametrization(conv, "weight", nn.Tanh())
    return conv


def replaced_on_the_object(method: str) -> nn.Conv2d:
    conv = nn.Conv2d(3, 3, 3)
    setattr(conv, method, lambda *args: torch.zeros(1))
    return conv


UNSUPPORTED = {
    "Conv1d": lambda: nn.Conv1d(3, 3, 3),
    "Conv3d": lambda: nn.Conv3d(3, 3, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(3, 3, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(3, 3, 3),
    "LazyConv2d": lambda: nn.LazyConv2d(3, 3),
    "OwnForward": lambda: OwnForward(3, 3, 3),
    "OwnConvForward": lambda: OwnConvForward(3, 3, 3),
    "ParametrizedConv2d": reparametrised,
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 3, 3)),
    "forward of the object": lambda: replaced_on_the_object("forward"),
    "_conv_forward of the object": lambda: replaced_on_the_object("_conv_forward"),
    "scripted": lambda: torch.jit.script(nn.Conv2d(3, 3, 3)),
    "traced": lambda: torch.jit.trace(nn.Conv2d(3, 3, 3), torch.rand(1, 3, 4, 4)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_convolution_that_cannot_be_skipped_is_named_and_nothing_changed(kind):
    net = Net()
    net.neck = nn.Sequential(nn.ReLU(), UNSUPPORTED[kind]())
    types = types_of(net)
    with pytest.raises(ValueError, match=r"'neck\.1'.*cannot be skipped.*filter_fn.*overrides"):
        skippose.convert_(net, GATE)
    assert types_of(net) == types
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("kind", "reason"),
    {
        "OwnForward": "its class has a forward of its own",
        "OwnConvForward": "its class has a _conv_forward of its own",
        "ParametrizedConv2d": "it is parametrized",
        "LazyConv2d": "its weights are not there yet",
        "forward of the object": "its forward was replaced on the object",
        "_conv_forward of the object": "its _conv_forward was replaced on the object",
        "ConvTranspose2d": "it is no nn.Conv2d",
    }.items(),
)
def test_why_a_convolution_cannot_be_skipped(kind, reason):
    conv = UNSUPPORTED[kind]()
    with pytest.raises(ValueError, match=f"cannot be skipped: {reason}"):
        skippose.convert_(nn.Sequential(conv), GATE)
    with pytest.raises(ValueError, match=f"cannot be skipped: {reason}"):
        SkipConv2d.from_conv(conv, GATE)


PROGRAMS = {
    "traced": lambda net: torch.jit.trace(net, torch.rand(1, 3, 9, 9)),
    "scripted": torch.jit.script,
    "frozen": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "exported": lambda net: torch.export.export(net, (torch.rand(1, 3, 9, 9),)).module(),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("made", PROGRAMS)
@pytest.mark.parametrize("how", [skippose.convert, skippose.convert_])
def test_a_program_is_converted_before_it_is_made(made, how):
    program = PROGRAMS[made](Net().eval())
    with pytest.raises(ValueError, match="convert the network"):
        how(program, GATE)
    assert skippose.convert_(program, None) is program, "nothing was to be gated"


def test_a_symbolic_trace_of_a_network_has_its_convolutions():
    net = skippose.convert(torch.fx.symbolic_trace(Net().eval()), GATE)
    assert gates_of(net) == dict.fromkeys(CONVS, 0.1)


def test_a_network_without_convolutions_has_nothing_to_gate():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="Sequential has no convolution to gate"):
        skippose.convert_(net, GATE)
    assert not any(module._forward_hooks for module in net.modules())
    skippose.convert_(net, None)
    skippose.convert_(Net(), GATE, filter_fn=lambda module, name: False)  # as the caller has it


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_convolution_that_cannot_be_skipped_can_be_excluded(kind):
    for arguments in (
        dict(overrides={"neck.1": None}),
        dict(filter_fn=lambda module, name: not name.startswith("neck")),
    ):
        net = Net()
        net.neck = nn.Sequential(nn.ReLU(), UNSUPPORTED[kind]())
        neck = net.neck[1]
        skippose.convert_(net, GATE, **arguments)
        assert net.neck[1] is neck
        assert {name for name, eps in gates_of(net).items() if eps} == set(CONVS)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_weight_norm_of_old_is_refused_or_right():
    conv = nn.utils.weight_norm(nn.Conv2d(3, 3, 3))
    dense = nn.Sequential(conv)
    x = torch.rand(3, 3, 6, 6)
    expected = dense(x).detach()
    try:
        net = skippose.convert_(dense, InputNormGate(0.0)).eval()
    except ValueError:
        return
    with torch.no_grad():
        net[0].weight_g.mul_(2)
    bias = net[0].bias.detach()[:, None, None]
    with skippose.clips(3), torch.no_grad():
        torch.testing.assert_close(net(x) - bias, 2 * (expected - bias))


def test_a_subclass_with_the_ordinary_forward_is_swapped():
    class Initialised(nn.Conv2d):
        def reset_parameters(self) -> None:
            nn.init.ones_(self.weight)

    net = skippose.convert(nn.Sequential(Initialised(2, 2, 1, bias=False)), GATE)
    assert type(net[0]) is SkipConv2d
    assert (net[0].weight == 1).all()


class Picky(InputNormGate):
    """A gate of somebody's own, which does not take every layer."""

    def for_layer(self, conv: nn.Conv2d) -> "Picky":
        raise ValueError("for narrow layers only")


def test_a_gate_that_does_not_fit_changes_nothing():
    net = Net()
    types = types_of(net)
    with pytest.raises(ValueError, match="narrow layers"):
        skippose.convert_(net, GATE, overrides={"stage2.2": Picky(0.1)})
    assert types_of(net) == types


def test_a_failed_reconversion_changes_nothing():
    net = skippose.convert(Net(), GATE)
    with pytest.raises(ValueError, match="narrow layers"):
        skippose.convert_(net, InputNormGate(0.9), overrides={"stage2.2": Picky(0.1)})
    assert gates_of(net) == dict.fromkeys(CONVS, 0.1)


@pytest.mark.parametrize("gate", [dict(type="Unknown"), "InputNormGate", dict(eps=0.1)])
def test_a_bad_gate_changes_nothing(gate):
    net = Net()
    types = types_of(net)
    for arguments in (dict(gate=gate), dict(gate=GATE, overrides={"stem": gate})):
        with pytest.raises((KeyError, TypeError)):
            skippose.convert_(net, **arguments)
    assert types_of(net) == types


def test_a_network_that_is_itself_a_convolution():
    conv = nn.Conv2d(3, 4, 3, padding=1).eval()
    for convert in (skippose.convert, skippose.convert_):
        net = convert(conv, InputNormGate(0.0))
        assert type(net) is SkipConv2d
        x = torch.rand(4, 3, 6, 6)
        with skippose.clips(4) as run, torch.no_grad():
            torch.testing.assert_close(net(x), conv(x))
        assert run.report(net).layers[0].macs == 3 * 4 * 9 * 36
    assert type(conv) is nn.Conv2d
    with pytest.raises(ValueError, match=r"ConvTranspose2d.*cannot be skipped"):
        skippose.convert_(nn.ConvTranspose2d(3, 3, 3), GATE)


def test_converting_again_replaces_gates():
    net = skippose.convert(Net(), GumbelGate())
    stem = net.stem
    skippose.convert_(net, InputNormGate(0.7), overrides={"stem": None}, reference="previous")
    assert gates_of(net) == {**dict.fromkeys(CONVS, 0.7), "stem": None}
    assert net.stem is stem
    assert net.stage1[0].reference == "previous"
    assert not any("gate.weight" in key for key in net.state_dict())
    skippose.convert_(net, InputNormGate(0.2), filter_fn=lambda m, name: name == "stem")
    assert gates_of(net) == {**dict.fromkeys(CONVS, 0.7), "stem": 0.2}


def test_a_layer_that_was_dense_before_is_counted_once_when_it_is_gated():
    net = skippose.convert(Net(), GATE, overrides={"stem": None})
    skippose.convert_(net, GATE)
    with skippose.clips(2) as run:
        net(torch.rand(2, 3, 9, 9))
    names = [cost.name for cost in run.report(net).layers]
    assert names == [*CONVS, "fc"]


def test_layers_are_counted_once_after_converting_twice():
    net = skippose.convert(Net(), GATE, overrides={"stem": None})
    skippose.convert_(net, GATE, overrides={"stem": None})
    with skippose.clips(2) as run:
        net(torch.rand(2, 3, 9, 9))
    assert [cost.name for cost in run.report(net).layers] == [*CONVS, "fc"]


def test_errors_at_run_time_name_the_layer():
    net = skippose.convert(Net(), GATE)
    with skippose.clips(2), pytest.raises(ValueError, match="'stem'.*batch of 3"):
        net(torch.rand(3, 3, 9, 9))
    outer = nn.Sequential(net)
    introduce(outer)
    with skippose.clips(2), pytest.raises(ValueError, match=r"'0\.stem'"):
        outer(torch.rand(3, 3, 9, 9))


def scores(net: nn.Module, frames: torch.Tensor) -> tuple[dict, dict]:
    """The network's clip and stream forms agree; returns their outputs and reports."""
    with skippose.clips(len(frames)) as run, torch.no_grad():
        clip = net(frames)
    stream = skippose.Stream(net)
    steps = torch.cat([stream(frame[None]) for frame in frames])
    return (clip, run.report(net)), (steps, stream.report())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_networks_of_torchvision(name, reference):
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    dense = getattr(models, name)(weights=None, num_classes=5).eval()
    frames = torch.rand(3, 3, 48, 48)
    with torch.no_grad():
        expected = dense(frames)

    # Every change counts: the dense network.
    net = skippose.convert(dense, InputNormGate(0.0), reference=reference)
    convs = sum(isinstance(m, nn.Conv2d) for m in dense.modules())
    assert len(gates_of(net)) == convs
    for output, report in scores(net, frames):
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)
        assert report.densities == pytest.approx(dict.fromkeys(report.densities, 1.0))
        assert len(report.densities) == convs

    # Nothing changes: the first frame's output, and no gated MAC.
    net = skippose.convert(dense, InputNormGate(0.1), reference=reference)
    for output, report in scores(net, frames[:1].expand(3, -1, -1, -1)):
        torch.testing.assert_close(output, expected[:1].expand(3, -1), rtol=1e-3, atol=1e-4)
        classifier = sum(m.weight.numel() for m in dense.modules() if isinstance(m, nn.Linear))
        assert report.gmacs * 1e9 == pytest.approx(classifier)
        assert set(report.densities.values()) == {0.0}

    # Everything changes a lot.
    frames[1] = -2 * frames[1]
    with torch.no_grad():
        expected = dense(frames[:2])
    for output, report in scores(net, frames[:2]):
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)
        assert report.density(report.layers[0]) == 1.0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_of_torchvision_train(name):
    models = pytest.importorskip("torchvision").models
    net = skippose.convert(getattr(models, name)(weights=None, num_classes=5), GumbelGate())
    net.train()
    with skippose.clips(2) as run:
        output = net(torch.rand(4, 3, 32, 32))
    (output.square().mean() + run.gate_loss()).backward()
    missing = [k for k, p in net.named_parameters() if p.grad is None]
    assert not missing


# -- torch.compile --------------------------------------------------------------------------------


def test_a_compiled_network_is_converted_under_its_own_names():
    x = torch.rand(4, 3, 9, 9).cumsum(0)
    dense = Net().eval()
    overrides = {"stem": None, "stage2.*": InputNormGate(1e6)}
    expected = skippose.convert(dense, GATE, overrides=overrides)
    seen = []
    net = skippose.convert(
        torch.compile(dense, backend="eager"),
        GATE,
        filter_fn=lambda module, name: seen.append(name) or True,
        overrides=overrides,
    )
    assert seen == ["stage1.0"]
    results = []
    for n in (expected, net):
        with torch.no_grad(), skippose.clips(4) as run:
            results.append((n(x), run.report(n)))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert list(results[1][1].densities) == CONVS[1:]


def test_a_convolution_that_was_compiled_by_itself_is_refused():
    net = Net()
    net.stem = torch.compile(net.stem, backend="eager")
    types = types_of(net)
    with pytest.raises(ValueError, match=r"layer 'stem' \(Conv2d\) was compiled.*compile it then"):
        skippose.convert_(net, GATE)
    assert types_of(net) == types
    skippose.convert_(net, GATE, overrides={"stem": None})
    assert set(gates_of(net)) == set(CONVS) - {"stem"}
