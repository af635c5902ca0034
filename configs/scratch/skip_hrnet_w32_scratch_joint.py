"""HRNet-W32 and the thresholds of its gates trained together: `hold`, a quarter of the MACs.

    python tools/train.py configs/scratch/skip_hrnet_w32_scratch_joint.py

As configs/small/skip_hrnet_small_joint.py, from what skip_hrnet_w32_scratch_anneal.py ends with, in
blocks of 4x4, and short enough for a CPU: an hour and a half on one core with AVX512-BF16. On an
accelerator, more clips an iteration and more iterations are worth their time. Four clips make a
step; on a CPU one after the other is faster than side by side.
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/jhmdb_clips.py",
    "../_base_/models/skip_hrnet_w32.py",
]

load_from = "work_dirs/hrnet_w32_scratch.pth"

model = dict(
    backbone=dict(
        gate=dict(_delete_=True, type="GumbelNormGate", eps=0.2, block=4, block_mode="scaled"),
        norm_eval=True,
    ),
    gate_loss=dict(type="GateLoss", weight=0.02, target=0.25, memory=0.985),
    consistency=1.0,
    train_cfg=dict(compute_acc=False),
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
    batch_size=1,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)

max_iters = 480
train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=max_iters)
val_cfg = dict()
test_cfg = dict(type="ClipTestLoop")

optim_wrapper = dict(
    type="BFloat16OptimWrapper",
    accumulative_counts=4,
    optimizer=dict(type="AdamW", lr=0.02, weight_decay=1e-2),
    paramwise_cfg=dict(
        custom_keys={
            ".gate.log_eps": dict(lr_mult=1.0, decay_mult=0.0),
            "backbone": dict(lr_mult=0.01),
            "head": dict(lr_mult=0.01),
        },
    ),
)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=40, start_factor=0.1, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=0, end=max_iters, eta_min_ratio=0.01, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=1)

custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="PlainCheckpointHook"),
    dict(type="ChannelsLastHook"),
    dict(type="GateScheduleHook", temperature=(2 / 3, 2 / 3), noise=(0.5, 0.0), end=0.6),
    dict(type="GateVisualizationHook", interval=10),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=20, max_keep_ckpts=1, save_best=None),
)
log_processor = dict(by_epoch=False, window_size=10)
