"""HRNet-W32 at 256x256 without anybody's weights, second step: JHMDB. For an accelerator.

    python tools/train.py configs/scratch/skip_hrnet_w32_scratch.py
    python tools/test.py configs/scratch/skip_hrnet_w32_scratch.py \\
        work_dirs/skip_hrnet_w32_scratch/epoch_38.pth

Trained dense on single frames (norm gates are open in training), from what pretrain_hrnet_w32.py
ends with, with the augmentations of mmpose's recipes.
"""

_base_ = ["pretrain_hrnet_w32.py"]

load_from = "work_dirs/pretrain_hrnet_w32/epoch_2.pth"
data_root = "{{$SKIPPOSE_DATA:data/jhmdb}}"
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, dataset=dict(data_root=data_root)))
val_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
test_dataloader = val_dataloader

val_evaluator = dict(
    metrics=[
        dict(type="JhmdbPCKAccuracy", thr=0.2, norm_item=["bbox", "torso"]),
        dict(type="JhmdbPCKAccuracy", thr=0.1, norm_item="bbox", prefix="strict"),
        dict(type="SparsityMetric"),
    ],
)
test_evaluator = val_evaluator

max_epochs = 38
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", begin=0, end=100, start_factor=0.01, by_epoch=False),
    dict(
        type="CosineAnnealingLR",
        begin=0,
        end=max_epochs,
        eta_min_ratio=0.001,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
