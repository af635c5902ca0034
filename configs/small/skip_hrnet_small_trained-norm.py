"""Fine-tuning through norm gates: the threshold stays, the network learns to live with it."""

_base_ = ["skip_hrnet_small_gumbel.py"]

model = dict(
    backbone=dict(
        gate=dict(_delete_=True, type="InputNormGate", eps=0.3, block=1, train_gates=True),
    ),
    gate_loss=None,
)
custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="GateVisualizationHook", interval=10),
]
