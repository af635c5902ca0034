"""Every k-th frame dense, on every third clip."""

gate, reference = "model.backbone.gate", "model.backbone.reference"
policies = {"hold": {f"{gate}.eps": 0.2}, "previous": {reference: "previous", f"{gate}.eps": 0.1}}
variants = {}
for policy, settings in policies.items():
    variants[f"{policy}/never"] = settings
    for k in (32, 16, 8):
        variants[f"{policy}/every {k}"] = {**settings, "model.test_cfg.refresh_every": k}
del policies, policy, settings, k
