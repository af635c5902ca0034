"""Whatever of a built-in gate somebody overrides, every backend asks it, or refuses the gate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose import InputNormGate
from skippose.backends.native.backend import NativeBackend
from skippose.gates import GATES, Gate, NormGate
from skippose.plan.errors import BackendError

torch.set_num_threads(1)

POLICIES = ["hold", "previous"]
needs_library = pytest.mark.skipif(
    NativeBackend.unavailable() is not None,
    reason=f"no native backend: {NativeBackend.unavailable()}",
)
# Each of them lets changes open nothing, where the gate it is derived from opens.
OVERRIDES: dict[str, Callable[[type[Gate]], Callable[..., Any]]] = {
    "decide": lambda base: lambda self, score, *_: torch.zeros_like(score, dtype=torch.bool),
    "score": lambda base: lambda self, change, conv: base.score(self, change, conv) * 0,
    "finish": lambda base: lambda self, *args: base.finish(self, *args) * 0,
    "measure": lambda base: lambda self, x, response: x.new_full((len(x),), 1e9),
}


def example(base: type[Gate]) -> dict[str, Any]:
    """The settings of a gate's first example."""
    settings = next(iter(base.examples().values())).settings()
    return {name: value for name, value in settings.items() if name != "type"}


def has(base: type[Gate], method: str) -> bool:
    """Whether overriding a method says something about a gate of this class."""
    return hasattr(base, method) and (method != "measure" or issubclass(base, NormGate))


def overridden(base: type[Gate], method: str) -> Gate:
    kind = type(f"Own{base.__name__}", (base,), {method: OVERRIDES[method](base)})
    return kind(**example(base))


def replaced(base: type[Gate], method: str) -> Gate:
    """The same on the object, whose class is the built-in one."""
    gate = base(**example(base))
    function = OVERRIDES[method](base)
    setattr(gate, method, lambda *args: function(gate, *args))
    return gate


class Shut(Gate):
    """Derived from no gate that there is."""

    def score(self, change: Tensor, conv: Any) -> Tensor:
        return conv(change).abs().amax(1, keepdim=True)

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        return torch.zeros_like(score, dtype=torch.bool)


OWN: dict[str, Callable[[], Gate]] = {
    f"{base.__name__}.{method}": lambda base=base, method=method: overridden(base, method)
    for base in GATES.values()
    for method in OVERRIDES
    if has(base, method)
}
OWN |= {
    f"{base.__name__}().decide": lambda base=base: replaced(base, "decide")
    for base in GATES.values()
}
OWN["Gate"] = Shut


@pytest.fixture(params=OWN)
def gate(request) -> Gate:
    return OWN[request.param]()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu())


def make_net(gate: Gate, reference: str = "hold") -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    net.bn.running_mean.uniform_(-0.1, 0.1)
    net.bn.running_var.uniform_(4, 9)
    return skippose.convert(net, gate, reference=reference).eval()


def make_video(frames: int = 3) -> Tensor:
    return 2 * torch.randn(frames, 2, 3, 8, 9, generator=torch.Generator().manual_seed(0))


def play(net: nn.Module, backend: str) -> skippose.Stream:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what runs in full
        stream = skippose.Stream(net, backend=backend)
        for frame in make_video():
            stream(frame)
    return stream


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("base", GATES.values())
def test_what_is_overridden_makes_a_difference(base, reference):
    stream = play(make_net(base(**example(base)), reference), "auto")
    assert stream.backend == ("torch" if NativeBackend.unavailable() else "native")
    assert stream.report().sparsity < 0.9


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("backend", ["eager", "torch", "auto"])
def test_it_is_asked(gate, reference, backend):
    stream = play(make_net(gate, reference), backend)
    assert stream.report().sparsity == 1
    assert stream.backend == ("eager" if backend == "eager" else "torch")


@pytest.mark.pairwise
@needs_library
@pytest.mark.parametrize("reference", POLICIES)
def test_the_native_backend_refuses_it_by_name(gate, reference):
    stream = skippose.Stream(make_net(gate, reference), backend="native")
    for _ in range(2):
        named = f"layer conv#0: {type(gate).__name__} states no spec.*backend='eager'"
        with pytest.raises(BackendError, match=named):
            stream(make_video()[0])
        assert stream.slots is None and stream.backend is None


@needs_library
def test_one_layer_is_enough_and_auto_says_which(gate, monkeypatch):
    monkeypatch.setattr("skippose.stream._said", set())
    net = make_net(InputNormGate(0.3))
    net.head.set_gate(gate)
    says = f"'torch'; not 'native': layer head#0: {type(gate).__name__} states no spec"
    with pytest.warns(UserWarning, match=says):
        skippose.Stream(net)(make_video()[0])


@needs_library
def test_a_state_does_not_bring_one_in():
    net, (first, second, third) = make_net(InputNormGate(0.3)), make_video()
    stream, alone = (skippose.Stream(net, backend="native") for _ in range(2))
    for one in (stream, alone):
        one(first)
        one(second)
    usual, net.conv.gate = net.conv.gate, overridden(InputNormGate, "decide").for_layer(net.conv)
    with pytest.raises(BackendError, match="OwnInputNormGate"):
        stream.load_state_dict(alone.state_dict())
    net.conv.gate = usual
    assert torch.equal(stream(third), alone(third))


@pytest.mark.parametrize("backend", ["eager", "torch", pytest.param("native", marks=needs_library)])
def test_a_method_replaced_after_a_plan_was_made_is_asked_too(backend):
    net = make_net(InputNormGate(0.3))
    assert play(net, backend).report().densities["conv"] > 0.1
    gate = net.conv.gate
    gate.decide = lambda score, scale: torch.zeros_like(score, dtype=torch.bool)
    if backend == "native":
        with pytest.raises(BackendError, match="layer conv#0: InputNormGate states no spec"):
            play(net, backend)
    else:
        assert play(net, backend).report().densities["conv"] == 0
    del gate.decide
    assert play(net, backend).report().densities["conv"] > 0.1


class AboveTheResponse(InputNormGate):
    """Measures the layer's own response, which batch norm must not have been folded into."""

    def measure(self, x: Tensor, response: Tensor) -> Tensor:
        return response.abs().mean((1, 2, 3))


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", POLICIES)
def test_whole_maps_show_it_what_eager_does(reference):
    net = make_net(InputNormGate(0.3), reference)
    net.conv.set_gate(AboveTheResponse(2.5), reference)
    eager, stream = play(net, "eager"), play(net, "torch")
    assert stream.report().densities == pytest.approx(eager.report().densities)
    assert 0 < stream.report().densities["conv"] < 1
    found, expected = (s.state_dict()["layers"]["conv#0"] for s in (stream, eager))
    torch.testing.assert_close(found["scale"], expected["scale"])


class Impatient(InputNormGate):
    """A layer that is to run densely now."""

    @property
    def always_open(self) -> bool:
        return True


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=needs_library)])
def test_a_layer_that_is_always_open_is_left_to_eager(backend):
    net = make_net(InputNormGate(0.3))
    net.conv.set_gate(Impatient(0.3))
    assert play(net, "eager").report().densities["conv"] == 1
    with pytest.raises(BackendError, match="'conv'.*backend='eager'"):
        play(net, backend)
