"""One threshold, for a clip that is played for long."""

variants = {"hold/0.2": {"model.backbone.gate.eps": 0.2}}
