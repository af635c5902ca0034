"""HRNet-W32 whose norm gates learn their thresholds: `hold`, blocks of 4x4, the network stays.

    python tools/train.py configs/scratch/skip_hrnet_w32_scratch_learned.py

As configs/small/skip_hrnet_small_learned-norm.py, whose words explain it. For an accelerator.
"""

_base_ = ["skip_hrnet_w32_scratch.py"]

load_from = "work_dirs/skip_hrnet_w32_scratch/epoch_80.pth"
model = dict(
    backbone=dict(
        gate=dict(_delete_=True, type="GumbelNormGate", eps=0.3, block=4), norm_eval=True
    ),
    gate_loss=dict(type="GateLoss", weight=0.02, target=0.2, memory=0.9),
    consistency=1.0,
)
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomBBoxTransform", shift_factor=0.1, scale_factor=(0.75, 1.25), rotate_factor=30),
    dict(type="TopdownAffine", input_size={{_base_.codec.input_size}}),
    dict(type="GenerateTarget", encoder={{_base_.codec}}),
    dict(type="PackPoseInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    dataset=dict(clip_len=8, crop="hysteresis", pipeline=train_pipeline),
)
max_iters = 100
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    optimizer=dict(lr=0.02),
    paramwise_cfg=dict(
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
    dict(type="GateScheduleHook", temperature=(2 / 3, 2 / 3), noise=(0.5, 0.0), end=0.6),
    dict(type="GateVisualizationHook", interval=10),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=max_iters, max_keep_ckpts=1, save_best=None),
)
log_processor = dict(by_epoch=False, window_size=10)
auto_scale_lr = dict(base_batch_size=4)
