"""Norm gates that learn their thresholds, from calibrated ones on.

python tools/train.py configs/small/skip_hrnet_small_learned-norm-calibrated.py
"""

from mmengine.config import Config

_base_ = ["skip_hrnet_small_learned-norm.py"]

calibrated = Config.fromfile("{{ fileDirname }}/skip_hrnet_small_calibrated.py")
model = dict(
    backbone=dict(gate=dict(eps=0.3)),
    gate_loss=dict(target=0.12),
    overrides={
        name: dict(type="GumbelNormGate", eps=eps) for name, eps in calibrated.thresholds.items()
    },
)
del Config, calibrated

max_iters = 300
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [
    dict(type="LinearLR", begin=0, end=10, start_factor=0.1, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=0, end=max_iters, eta_min_ratio=0.01, by_epoch=False),
]
