"""A network and its cheaper twin, with and without skipping."""

gate = "model.backbone.gate"
variants = {
    "not gated/0": {gate: None},
    "hold/0.1": {f"{gate}.eps": 0.1},
    "hold/0.2": {f"{gate}.eps": 0.2},
}
