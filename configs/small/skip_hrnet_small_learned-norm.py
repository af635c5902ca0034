"""Norm gates that learn their thresholds: `hold`, a budget, the network stays as it is.

    python tools/train.py configs/small/skip_hrnet_small_learned-norm.py \\
        --cfg-options model.gate_loss.target=0.15 model.backbone.gate.eps=0.3

All 80 layers begin with one threshold, `eps`, best near the budget, and each learns its own. What
they learn from is the distance of the heat maps from those of the same network run dense, which
needs no labels. The target is a share of the gated layers' MACs, in the mean over clips (`memory`);
the loss's weight is a few times what a share of MACs is worth in that distance, so that the target
is met and the layers still compete for it.
"""

_base_ = ["skip_hrnet_small_gumbel.py"]

model = dict(
    backbone=dict(gate=dict(_delete_=True, type="GumbelNormGate", eps=0.2)),
    gate_loss=dict(target=0.25, memory=0.95),
)

max_iters = 200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    optimizer=dict(lr=0.02),
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            ".gate.log_eps": dict(lr_mult=1.0, decay_mult=0.0),
            "backbone": dict(lr_mult=0.0),
            "head": dict(lr_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=10, start_factor=0.1, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=0, end=max_iters, eta_min_ratio=0.01, by_epoch=False),
]
custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="PlainCheckpointHook"),
    dict(type="GateScheduleHook", temperature=(2 / 3, 2 / 3), noise=(0.5, 0.0), end=0.6),
    dict(type="GateVisualizationHook", interval=10),
]
