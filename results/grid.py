"""Kinds of gates on every third clip: one change of the config at a time."""

gate, reference = "model.backbone.gate", "model.backbone.reference"
previous = {reference: "previous"}
variants = {
    "hold/0.2": {f"{gate}.eps": 0.2},
    "previous/0.1": {**previous, f"{gate}.eps": 0.1},
    "hold, absolute/0.05": {f"{gate}.eps": 0.05, f"{gate}.scale": "absolute"},
    "hold, absolute/0.1": {f"{gate}.eps": 0.1, f"{gate}.scale": "absolute"},
    "hold, block 2/0.2": {f"{gate}.eps": 0.2, f"{gate}.block": 2},
    "hold, block 4/0.2": {f"{gate}.eps": 0.2, f"{gate}.block": 4},
    "hold, block 8/0.2": {f"{gate}.eps": 0.2, f"{gate}.block": 8},
    "hold, output/0.2": {f"{gate}.eps": 0.2, f"{gate}.type": "OutputNormGate"},
    "hold, exact/0.2": {f"{gate}.eps": 0.2, f"{gate}.type": "ExactNormGate"},
    "hold, reset every 8/0.2": {f"{gate}.eps": 0.2, "model.test_cfg.refresh_every": 8},
    "previous, absolute/0.05": {**previous, f"{gate}.eps": 0.05, f"{gate}.scale": "absolute"},
    "previous, block 4/0.1": {**previous, f"{gate}.eps": 0.1, f"{gate}.block": 4},
    "previous, output/0.1": {**previous, f"{gate}.eps": 0.1, f"{gate}.type": "OutputNormGate"},
    "previous, exact/0.1": {**previous, f"{gate}.eps": 0.1, f"{gate}.type": "ExactNormGate"},
    "previous, reset every 8/0.1": {
        **previous, f"{gate}.eps": 0.1, "model.test_cfg.refresh_every": 8
    },
}  # fmt: skip
