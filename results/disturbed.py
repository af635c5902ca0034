"""One network of each policy, for clips that are disturbed or played for long."""

gate, reference = "model.backbone.gate", "model.backbone.reference"
variants = {
    "hold/0.2": {f"{gate}.eps": 0.2},
    "previous/0.1": {reference: "previous", f"{gate}.eps": 0.1},
}
