"""Curves over all test clips: one threshold for all layers, its policy, its blocks."""

gate, reference = "model.backbone.gate", "model.backbone.reference"
variants = {}
for eps in (0.1, 0.15, 0.18, 0.2, 0.3):
    variants[f"hold/{eps}"] = {f"{gate}.eps": eps}
for eps in (0.09, 0.1):
    variants[f"hold, absolute/{eps}"] = {f"{gate}.eps": eps, f"{gate}.scale": "absolute"}
for eps in (0.15, 0.2, 0.25, 0.3):
    variants[f"hold, block 4/{eps}"] = {f"{gate}.eps": eps, f"{gate}.block": 4}
variants["hold, output/0.6"] = {f"{gate}.eps": 0.6, f"{gate}.type": "OutputNormGate"}
variants["hold, p = 2/0.3"] = {f"{gate}.eps": 0.3, f"{gate}.p": 2}
for eps in (0.05, 0.1, 0.15, 0.2, 0.3):
    variants[f"previous/{eps}"] = {f"{gate}.eps": eps, reference: "previous"}
del eps
