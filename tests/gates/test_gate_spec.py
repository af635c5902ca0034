"""A gate's spec is the gate; a gate that is not what its spec states has none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose.gates import (
    GATES,
    ExactNormGate,
    Gate,
    GumbelGate,
    GumbelNormGate,
    InputNormGate,
    OutputNormGate,
)
from skippose.ops import Convolution
from skippose.ops.gate_spec import GateSpec, InputNorm, Score, Threshold, spec_of

EXAMPLES = {
    f"{name}: {label}": gate
    for name, kind in GATES.items()
    for label, gate in kind.examples().items()
}
SINCE = "since the frame before"


def bound(template: Gate) -> tuple[nn.Conv2d, Gate]:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    return conv, template.for_layer(conv).eval()


def shut(score: Tensor, scale: Tensor | None) -> Tensor:
    return torch.zeros_like(score, dtype=torch.bool)


def test_every_registered_gate_gives_an_example():
    assert all(kind.examples() for kind in GATES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_spec_states_what_the_gates_own_methods_do(name):
    conv, gate = bound(EXAMPLES[name])
    value = Convolution.of(conv)
    spec = spec_of(gate, value, SINCE)
    assert spec is not None
    change, response = torch.randn(3, 4, 9, 7), torch.randn(3, 6, 9, 7)
    seen = change if spec.score.of == "input" else response
    score = gate.score(seen, value)
    assert torch.equal(spec.score.on_maps(seen, value.geometry), score)
    assert gate.sees == spec.score.of
    scale = gate.measure(change, response)
    stated = spec.threshold.measure(change, response)
    assert (scale is None) == (stated is None)
    if scale is not None:
        assert torch.equal(scale, stated)
    opened = gate.decide(score, scale)
    assert torch.equal(score > spec.threshold.limit(scale), opened)
    assert 0 < opened.float().mean() <= 1 or name == "InputNormGate: raw"


@pytest.mark.parametrize("name", EXAMPLES)
def test_scores_of_pairs_are_scores_of_differences(name):
    conv, gate = bound(EXAMPLES[name])
    spec = spec_of(gate, Convolution.of(conv), SINCE)
    assert spec is not None
    now, *before = torch.randn(4, 2, 4, 9, 7)
    geometry = Convolution.of(conv).geometry
    found = spec.score.of_pairs(now, before, geometry, torch.empty_like(now))
    expected = torch.cat([spec.score.on_maps(now - x, geometry) for x in before])
    torch.testing.assert_close(found, expected)
    if spec.score.additive:
        parts = [spec.score.on_maps(x, geometry) for x in (now, before[0])]
        torch.testing.assert_close(found[:2], parts[0] - parts[1], rtol=1e-4, atol=1e-5)


OVERRIDDEN = ("score", "decide", "measure", "finish", "gain", "offsets", "sees")


@pytest.mark.parametrize("method", OVERRIDDEN)
@pytest.mark.parametrize("base", [InputNormGate, OutputNormGate, ExactNormGate, GumbelNormGate])
def test_a_subclass_that_overrides_what_a_spec_stands_for_has_none(base, method):
    kind = type("Mine", (base,), {method: getattr(base, method, None)})
    conv, gate = bound(kind(0.3))
    assert spec_of(gate, Convolution.of(conv), SINCE) is None
    below = type("Below", (kind,), {})  # nor has one that inherits from it
    assert spec_of(bound(below(0.3))[1], Convolution.of(conv), SINCE) is None


@pytest.mark.parametrize("template", [InputNormGate(0.3), GumbelGate(rectify=True)])
def test_a_method_replaced_on_the_object_leaves_no_spec(template):
    conv, gate = bound(template)
    assert spec_of(gate, Convolution.of(conv), SINCE) is not None
    gate.decide = shut
    assert spec_of(gate, Convolution.of(conv), SINCE) is None
    del gate.decide
    assert spec_of(gate, Convolution.of(conv), SINCE) is not None


def test_a_subclass_may_state_a_spec_of_its_own():
    class Louder(InputNormGate):
        """Twice the norm."""

        def score(self, change: Tensor, conv: Convolution) -> Tensor:
            return super().score(change, conv) * 2

        def spec(self, conv: Convolution, change) -> GateSpec:
            norm = InputNorm(self.p, self.normalize, torch.tensor(2.0))
            return GateSpec(norm, change, self.threshold)

    conv, gate = bound(Louder(0.3))
    spec = spec_of(gate, Convolution.of(conv), SINCE)
    assert spec is not None and spec.score.gain == 2


def test_a_subclass_that_changes_settings_alone_keeps_the_spec():
    class Coarse(InputNormGate):
        def __init__(self, eps: float) -> None:
            super().__init__(eps, block=8)

    conv, gate = bound(Coarse(0.3))
    assert spec_of(gate, Convolution.of(conv), SINCE) is not None


def test_a_gate_without_a_spec_has_none():
    assert spec_of(Gate(), Convolution.of(nn.Conv2d(3, 4, 3)), SINCE) is None


@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_a_learned_threshold_is_a_tensor_and_no_decision_asks_for_its_value(scale):
    conv = nn.Conv2d(3, 4, 3, device="meta")  # on which a value that is asked for is an error
    gate = GumbelNormGate(0.2, scale=scale).for_layer(conv).to("meta").eval()
    spec = spec_of(gate, Convolution.of(conv), SINCE)
    assert spec is not None and isinstance(spec.threshold.value, Tensor)
    magnitude = torch.ones(2, device="meta")
    assert gate.decide(torch.ones(2, 1, 5, 5, device="meta"), magnitude).dtype == torch.bool


def test_a_learned_threshold_is_the_number_it_is_shown_as():
    gate = GumbelNormGate(0.2).eval()
    assert float(gate.threshold.value) == pytest.approx(0.2, rel=1e-6)
    half = copy.deepcopy(gate).half()  # its logarithm is half precision then, its threshold is not
    assert half.threshold.value.dtype == torch.float32


def test_a_kind_of_score_that_a_backend_lacks_is_named():
    class Mystery(Score):
        kind = "mystery"

        def on_maps(self, change: Tensor, geometry) -> Tensor:
            return change.abs().amax(1, keepdim=True)

    class Odd(Gate):
        """Its largest element."""

        def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
            return change.abs().amax((1, 2))

        def score(self, change: Tensor, conv: Convolution) -> Tensor:
            return Mystery().on_maps(change, conv.geometry)

        def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
            return score > 2.5

        def spec(self, conv: Convolution, change) -> GateSpec:
            return GateSpec(Mystery(), change, Threshold(2.5))

    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 4, 1)), Odd()).eval()
    frames = torch.randn(3, 1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"layer 0#0: the native backend has no .*'mystery'"):
        skippose.Stream(net, backend="native")(frames[0])
    streams = {name: skippose.Stream(net, backend=name) for name in ("torch", "eager")}
    for frame in frames:
        found = {name: stream(frame) for name, stream in streams.items()}
        torch.testing.assert_close(found["torch"], found["eager"])
    shares = [stream.report().sparsity for stream in streams.values()]
    assert shares[0] == shares[1] and 0 < shares[0] < 1
