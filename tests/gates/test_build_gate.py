"""Gates from configs, and the settings of gates back to configs."""

import math

import pytest
from torch import nn

from skippose.gates import (
    GATES,
    ExactNormGate,
    Gate,
    GumbelGate,
    GumbelNormGate,
    InputNormGate,
    OutputNormGate,
    build_gate,
)

NORMS = [InputNormGate, OutputNormGate, ExactNormGate]


def test_all_gates_can_be_built_by_name():
    assert {g.__name__: g for g in (*NORMS, GumbelGate, GumbelNormGate)} == GATES


@pytest.mark.parametrize("gate_class", NORMS)
def test_a_config_becomes_a_gate_and_is_not_changed(gate_class):
    config = dict(type=gate_class.__name__, eps=0.1, block=4, p="inf", source="frame")
    before = dict(config)
    gate = build_gate(config)
    assert type(gate) is gate_class
    assert (gate.eps, gate.block, gate.p, gate.source) == (0.1, 4, math.inf, "frame")
    assert config == before


@pytest.mark.parametrize(
    "gate",
    [
        InputNormGate(0.3, scale="absolute", p=2, block=3, block_mode="fixed", normalize=False),
        OutputNormGate(0.2, train_gates=True, source="frame"),
        ExactNormGate(0.0, p=math.inf),
        GumbelGate(block=2, temperature=0.5, init_open=-1.0, rectify=True, threshold=0.2),
        GumbelNormGate(0.3, scale="absolute", p=2, block=3, sharpness=2.0, noise=0.5),
    ],
    ids=lambda g: type(g).__name__,
)
def test_settings_make_such_a_gate_again(gate):
    again = build_gate(gate.settings())
    assert type(again) is type(gate)
    assert again.settings() == gate.settings()
    for name, value in gate.settings().items():
        if name != "type":
            assert repr(value) in repr(gate)


def test_gates_and_none_pass_through():
    gate = InputNormGate(0.1)
    assert build_gate(gate) is gate
    assert build_gate(None) is None


def test_a_template_is_copied_for_every_layer():
    template = InputNormGate(0.1)
    a, b = template.for_layer(nn.Conv2d(2, 2, 1)), template.for_layer(nn.Conv2d(2, 2, 1))
    assert a is not template and a is not b
    a.magnitude.fill_(3)
    assert template.magnitude == 0 and b.magnitude == 0


@pytest.mark.parametrize("config", [dict(type="NormGate", eps=1), dict(eps=0.1), dict()])
def test_an_unknown_type_lists_those_there_are(config):
    with pytest.raises(KeyError, match="unknown gate") as caught:
        build_gate(config)
    assert all(name in str(caught.value) for name in GATES)
    assert repr(config.get("type")) in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="InputNormGate"), "InputNormGate.*eps"),
        (dict(type="InputNormGate", eps=0.1, epsilon=2), "InputNormGate.*epsilon"),
        (dict(type="GumbelGate", eps=0.1), "GumbelGate.*eps"),
        ("InputNormGate", "'InputNormGate'"),
        (0.1, "0.1"),
        (InputNormGate, "InputNormGate"),
    ],
)
def test_wrong_arguments_are_named(config, message):
    with pytest.raises(TypeError, match=message):
        build_gate(config)


def test_an_abstract_gate_decides_nothing():
    gate = Gate()
    with pytest.raises(NotImplementedError):
        gate.decide(None, None)
