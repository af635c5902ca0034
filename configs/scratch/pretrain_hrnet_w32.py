"""HRNet-W32 at 256x256 from random weights, first step: rendered people. For an accelerator.

    python tools/dataset_converters/synthetic.py --out data/synthetic --clips 900
    python tools/train.py configs/scratch/pretrain_hrnet_w32.py

For those who cannot fetch mmpose's COCO weights, or want none. Single frames make the most varied
batches; gates play no part in training. skip_hrnet_w32_scratch.py goes on from here.
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/jhmdb_clips.py",
    "../_base_/models/skip_hrnet_w32.py",
]

load_from = None
data_root = "{{$SKIPPOSE_SYNTHETIC:data/synthetic}}"
train_dataloader = dict(
    batch_size=128,
    num_workers=12,
    drop_last=True,
    dataset=dict(clip_len=1, crop="frame", dataset=dict(data_root=data_root)),
)
val_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
test_dataloader = val_dataloader

model = dict(
    backbone=dict(
        # The default, a normal distribution of 0.001, is meant for weights that are loaded.
        init_cfg=[
            dict(type="Kaiming", layer="Conv2d", nonlinearity="relu"),
            dict(type="Constant", layer="BatchNorm2d", val=1),
        ],
    ),
    train_cfg=dict(compute_acc=False),
)

env_cfg = dict(cudnn_benchmark=True)
max_epochs = 2
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
custom_hooks = [
    dict(type="ExactResumeHook"),
    dict(type="PlainCheckpointHook"),
    dict(type="SyncBuffersHook"),
    dict(type="ChannelsLastHook"),
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
        eta_min_ratio=0.01,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1, save_best=None))
auto_scale_lr = dict(base_batch_size=128)
val_cfg = dict()
test_cfg = dict(type="ClipTestLoop")
