"""Every operator that is registered, in every backend, against the network itself."""

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose import InputNormGate, Stream
from skippose.backends import BACKENDS
from skippose.backends.native.backend import NativeBackend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.ops.schedule import Schedule
from skippose.plan.activation import Activation
from skippose.plan.capture import capture
from skippose.plan.errors import BackendError
from skippose.plan.operators.activations import ACTIVATIONS
from skippose.plan.operators.pool import Pool
from skippose.plan.registry import OPERATORS, TRACES, register, traces

torch.set_num_threads(1)

EXAMPLES = [(operator, name) for operator in OPERATORS for name in OPERATORS[operator].examples()]
RUNS = [*BACKENDS, "whole maps"]


def example(operator: str, name: str) -> tuple[nn.Module, Tensor]:
    """The network, gated so that every change opens its block, and frames (T, S, C, H, W)."""
    torch.manual_seed(0)
    found = OPERATORS[operator].examples()[name]
    transposed = {
        n: None for n, m in found.net.named_modules() if isinstance(m, nn.ConvTranspose2d)
    }
    net = skippose.convert(found.net, InputNormGate(0.0, scale="absolute"), overrides=transposed)
    video = torch.randn(1, *found.shape).repeat(4, 1, 1, 1, 1)
    for t in range(1, 4):  # less of it changes with every frame
        video[t:, :, :, 2 * t : 10, 3 * t : 12] = torch.randn(
            found.shape[0], found.shape[1], 10 - 2 * t, 12 - 3 * t
        )
    return net.eval(), video


class WholeMaps:
    """The backend that serves for other devices than a CPU, and what is exported."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.backend = net, None

    def __call__(self, frame: Tensor):
        self.backend = self.backend or MapsBackend(self.net, frame, Schedule())
        return self.backend.step(frame)


@pytest.mark.parametrize(("operator", "name"), EXAMPLES)
def test_an_example_has_the_operator_in_its_plan(operator, name):
    net, video = example(operator, name)
    assert OPERATORS[operator] in {type(op) for op in capture(net, video[0]).ops}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("operator", "name"), EXAMPLES)
def test_every_operator_in_every_backend(operator, name, run):
    net, video = example(operator, name)
    try:
        stream = WholeMaps(net) if run == "whole maps" else Stream(net, backend=run)
        outputs = [stream(frame) for frame in video]
    except (BackendError, ValueError) as error:
        known = isinstance(error, BackendError) or "is not available" in str(error)
        assert known and run not in ("eager", "torch"), error
        pytest.skip(str(error))
    with torch.no_grad():
        for t, (frame, found) in enumerate(zip(video, outputs, strict=True)):
            expected = net(frame)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=f"frame {t}")
            moved = (expected - net(video[0])).abs().amax()
            assert t == 0 or moved > 1e-3, "the output does not depend on what moves"


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_of_the_package_runs_natively(operator):
    """Otherwise the test above would skip what was lost."""
    if not OPERATORS[operator].__module__.startswith("skippose."):
        pytest.skip("not of the package")
    if NativeBackend.unavailable():
        pytest.skip(NativeBackend.unavailable())
    for name in OPERATORS[operator].examples():
        net, video = example(operator, name)
        Stream(net, backend="native")(video[0])


VALUES = torch.linspace(-5, 8, 27)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_writes_elsewhere_what_it_gives_in_place(name):
    kind = ACTIVATIONS[name]
    act = Activation(kind, -0.5, 2.0)
    expected, x, out = act(VALUES.clone()), VALUES.clone(), torch.full_like(VALUES, torch.nan)
    act.into(x, out)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    torch.testing.assert_close(x, VALUES, rtol=0, atol=0)
    act.into(x, x)
    torch.testing.assert_close(x, expected, rtol=0, atol=0)
    assert not torch.equal(expected, VALUES)


FUNCTIONS = {
    "relu": nn.ReLU(),
    "clamp": nn.Hardtanh(-0.5, 0.7),
    "leaky_relu": nn.LeakyReLU(0.3),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_activation_in_every_backend(name, run):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 21, 3), FUNCTIONS[name], nn.MaxPool2d(2), FUNCTIONS[name])
    net = skippose.convert(net, InputNormGate(0.0, scale="absolute")).eval()
    video = torch.randn(3, 1, 3, 14, 12)
    video[1:, ..., 7:] = video[0, ..., 7:]
    acts = [op.activation for op in capture(net, video[0]).ops if op.activation]
    assert {act.kind.name for act in acts} == {name} and len(acts) == 2
    try:
        stream = WholeMaps(net) if run == "whole maps" else Stream(net, backend=run)
    except ValueError as error:
        assert "is not available" in str(error) and run == "native"
        pytest.skip(str(error))
    for frame in video:
        with torch.no_grad():
            torch.testing.assert_close(stream(frame), net(frame), rtol=1e-4, atol=1e-5)


def test_every_activation_of_the_package_is_tried():
    own = {n for n, k in ACTIVATIONS.items() if k.in_place.__module__.startswith("skippose.")}
    assert own == FUNCTIONS.keys()


def test_names_are_registered_once():
    assert {"convolution", "relu", "cat", "mul", "alias"} <= TRACES.keys()
    with pytest.raises(ValueError, match="operator 'Pool' already"):
        register()(type("Pool", (Pool,), {}))
    with pytest.raises(ValueError, match=r"registered already what \['mul'\] becomes"):
        traces("mul", "something new")(lambda graph, a, out: None)
    assert "something new" not in TRACES and OPERATORS["Pool"] is Pool
