"""The small Skip-HRNet with Gumbel gates, fine-tuned from the dense network: `hold`, a budget.

    python tools/train.py configs/small/skip_hrnet_small_gumbel.py \\
        --cfg-options model.gate_loss.target=0.15 model.backbone.gate.threshold=0.15

Network and gates are trained together on clips of eight frames. Gates see magnitudes of changes and
begin as norm gates with one absolute threshold, best near the budget: those that began open, with
random weights, all closed on the way to it (results/learned_gates.md). Beside the labels, the
network's own dense heat maps are a target. The gate loss aims at a share of the gated layers' MACs
in the mean over clips; its weight is a few times what a share is worth in the other losses, so that
the target is met and layers still compete for it. Batch norm keeps its statistics: one clip is too
little to take them from.
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/jhmdb_clips_128.py",
    "../_base_/models/skip_hrnet_small.py",
]

load_from = "configs/small/hrnet_small_jhmdb-sub1.pth"

model = dict(
    backbone=dict(
        # Each layer's block is one output.
        gate=dict(_delete_=True, type="GumbelGate", rectify=True, threshold=0.1, init_open=-4.0),
        reference="hold",
        norm_eval=True,
    ),
    gate_loss=dict(type="GateLoss", weight=0.02, target=0.25, memory=0.98),
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
    dataset=dict(clip_len=8, pipeline=train_pipeline),
)

max_iters = 150
train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=max_iters)
val_cfg = dict()
test_cfg = dict(type="ClipTestLoop")

optim_wrapper = dict(
    type="BFloat16OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-5, weight_decay=1e-2),
    # c and the many weights of φ, which move a logit together. Decay would pull logits to zero, to
    # gates that open by chance.
    paramwise_cfg=dict(
        custom_keys={
            ".gate.bias": dict(lr_mult=400.0, decay_mult=0.0),
            ".gate.weight": dict(lr_mult=4.0, decay_mult=0.0),
        }
    ),
)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=10, start_factor=0.1, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=0, end=max_iters, eta_min_ratio=0.01, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=1)

custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="PlainCheckpointHook"),
    # The noise fades, so that the gates that training ends with are those that are tested.
    dict(type="GateScheduleHook", temperature=(2 / 3, 2 / 3), noise=(0.5, 0.0), end=0.6),
    dict(type="GateVisualizationHook", interval=10),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=1, save_best=None),
)
log_processor = dict(by_epoch=False, window_size=10)
