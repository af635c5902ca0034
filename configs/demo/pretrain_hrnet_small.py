"""Trains the small HRNet from scratch on synthetic clips: the checkpoint that the demo starts from.

    python tools/dataset_converters/synthetic.py --out data/synthetic --clips 900
    python tools/train.py configs/demo/pretrain_hrnet_small.py

Single frames (clips of one) make the most varied batches; gates play no part in training. Then

    python tools/publish_checkpoint.py work_dirs/pretrain_hrnet_small/epoch_5.pth \\
        configs/demo/hrnet_small_synthetic.pth
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/synthetic_clips.py",
    "../_base_/models/skip_hrnet_small.py",
]

train_dataloader = dict(batch_size=32, dataset=dict(clip_len=1))
max_epochs = 5
custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="PlainCheckpointHook"),
    dict(type="SyncBuffersHook"),
    dict(type="ChannelsLastHook"),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict(type="ClipTestLoop")
# On a CPU with AMX a step takes less than half of the time that float32 in torch's format takes.
# (mmpose computes the accuracy that it logs with numpy, which has no bfloat16.)
model = dict(train_cfg=dict(compute_acc=False))
optim_wrapper = dict(
    type="BFloat16OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-4)
)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=100, start_factor=0.01, by_epoch=False),
    dict(
        type="CosineAnnealingLR",
        begin=0,
        end=max_epochs,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=32)
