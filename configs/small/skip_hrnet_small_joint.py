"""Thresholds and network trained together, for an accelerator: `hold`, a tenth of the MACs.

    python tools/train.py configs/small/skip_hrnet_small_joint.py \\
        --cfg-options model.gate_loss.target=0.25 model.backbone.gate.eps=0.2

The gates are those of skip_hrnet_small_learned-norm.py; what changes is how much is seen: sixteen
clips an iteration, so that the network has time to learn to live with what is skipped.
"""

_base_ = ["skip_hrnet_small_learned-norm.py"]

model = dict(backbone=dict(gate=dict(eps=0.3)), gate_loss=dict(target=0.1))
train_dataloader = dict(batch_size=16, num_workers=2)

max_iters = 120
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.015), "head": dict(lr_mult=0.015)}),
)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=10, start_factor=0.1, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=0, end=max_iters, eta_min_ratio=0.01, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=16)
