"""Fine-tuning through norm gates: calibrated thresholds stay, the network learns to live with them.

    python tools/train.py configs/small/skip_hrnet_small_trained-norm.py

No gate learns, and there is no budget to aim at: what is skipped follows from the thresholds.
"""

from mmengine.config import Config

_base_ = ["skip_hrnet_small_gumbel.py"]

calibrated = Config.fromfile("{{ fileDirname }}/skip_hrnet_small_calibrated.py")
model = dict(
    backbone=dict(gate=dict(_delete_=True, type="InputNormGate", eps=0.3, block=1)),
    overrides={
        name: {**gate, "train_gates": True} for name, gate in calibrated.model.overrides.items()
    },
    gate_loss=None,
    consistency=0.0,
)
del Config, calibrated

max_iters = 300
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=10, start_factor=0.1, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=0, end=max_iters, eta_min_ratio=0.01, by_epoch=False),
]
custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="PlainCheckpointHook"),
    dict(type="GateVisualizationHook", interval=10),
]
