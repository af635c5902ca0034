"""A small Skip-HRNet on JHMDB: `hold`, relative thresholds, every convolution gated.

    python tools/train.py configs/small/skip_hrnet_small.py
    python tools/test.py configs/small/skip_hrnet_small.py configs/small/hrnet_small_jhmdb-sub1.pth

For those without an accelerator, and for experiments that have many rows: 1.5 M parameters, 0.19
GMAC at 128x128. Trained dense on single frames (norm gates are open in training), from the
checkpoint that configs/demo/pretrain_hrnet_small.py makes, with the augmentations of mmpose's
recipes. Then

    python tools/publish_checkpoint.py work_dirs/skip_hrnet_small/epoch_30.pth \\
        configs/small/hrnet_small_jhmdb-sub1.pth
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/jhmdb_clips_128.py",
    "../_base_/models/skip_hrnet_small.py",
]

load_from = "configs/demo/hrnet_small_synthetic.pth"

train_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomHalfBody"),
    # Wider than mmpose's, because a window that stays put shows a person off its middle.
    dict(
        type="RandomBBoxTransform", shift_factor=0.16, scale_factor=(0.65, 1.35), rotate_factor=60
    ),
    dict(type="TopdownAffine", input_size={{_base_.codec.input_size}}),
    dict(type="PhotometricDistortion"),
    dict(type="GenerateTarget", encoder={{_base_.codec}}),
    dict(type="PackPoseInputs"),
]
# The loader of single frames must be as fast as the network.
train_dataloader = dict(
    batch_size=32, dataset=dict(clip_len=1, crop="frame", pipeline=train_pipeline)
)
model = dict(train_cfg=dict(compute_acc=False))

max_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict(type="ClipTestLoop")
custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="PlainCheckpointHook"),
    dict(type="SyncBuffersHook"),
    dict(type="ChannelsLastHook"),
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0005, update_buffers=True),
]
optim_wrapper = dict(
    type="BFloat16OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-2)
)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=100, start_factor=0.01, by_epoch=False),
    dict(
        type="CosineAnnealingLR",
        begin=0,
        end=max_epochs,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=32)
