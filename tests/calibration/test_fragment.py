"""Thresholds as a config."""

import ast
from pathlib import Path

import numpy as np

import skippose
from skippose.calibration.fragment import config_fragment, rounded, wrapped
from skippose.layers import SkipConv2d

COMMAND = "python tools/calibrate.py " + " ".join(f"--option-{n} configs/a{n}.py" for n in range(9))


def test_a_command_is_whole_again_when_it_is_read():
    text = wrapped(COMMAND)
    assert max(map(len, text.splitlines())) <= 100
    read = ast.literal_eval(f'"""\n{text}\n"""')
    assert " ".join(read.replace("\\\n", " ").split()) == COMMAND


def test_a_fragment_gives_every_layer_its_gate(tmp_path: Path):
    layers = {
        f"layer{n}": SkipConv2d(2, 2, 3, gate=skippose.InputNormGate(eps=0.1 * (n + 1), block=n))
        for n in (1, 2)
    }
    out = tmp_path / "configs" / "found.py"
    text = config_fragment(str(tmp_path / "base.py"), out, layers, "absolute", "Why.\n")
    content: dict = {}
    exec(text, content)
    assert content["_base_"] == "../base.py"
    assert max(map(len, text.splitlines())) <= 100
    overrides = content["model"]["overrides"]
    assert {name: (gate["eps"], gate["block"]) for name, gate in overrides.items()} == {
        "layer1": (0.2, 1),
        "layer2": (0.3, 2),
    }
    assert {gate["scale"] for gate in overrides.values()} == {"absolute"}
    for gate in overrides.values():
        SkipConv2d(2, 2, 3, gate=dict(gate))


def test_a_learned_threshold_is_written_as_a_norm_gates(tmp_path: Path):
    """A checkpoint of the training holds the thresholds before they were calibrated."""
    layer = SkipConv2d(2, 2, 3, gate=skippose.GumbelNormGate(eps=0.25, block=4, source="frame"))
    trained = layer.state_dict()
    layer.gate.eps = 0.5
    text = config_fragment("base.py", tmp_path / "found.py", {"one": layer}, None, "Why.\n")
    content: dict = {}
    exec(text, content)
    found = SkipConv2d(2, 2, 3, gate=dict(content["model"]["overrides"]["one"]))
    found.load_state_dict(trained, strict=False)
    assert type(found.gate) is skippose.InputNormGate
    assert (found.gate.eps, found.gate.block, found.gate.source) == (0.5, 4, "frame")
    assert layer.gate.norm_settings().items() <= found.gate.settings().items()


def test_thresholds_are_rounded_as_they_are_written():
    assert rounded(np.array([0.123456, 12345.6])).tolist() == [0.1235, 12350.0]
