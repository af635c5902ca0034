# JHMDB Sub1 at half the size of mmpose's crops, for networks that a CPU can train.
_base_ = ["jhmdb_clips.py"]

codec = dict(type="MSRAHeatmap", input_size=(128, 128), heatmap_size=(32, 32), sigma=1.5)

train_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomBBoxTransform", rotate_factor=40, scale_factor=(0.75, 1.25)),
    dict(type="TopdownAffine", input_size=codec["input_size"]),
    dict(type="GenerateTarget", encoder=codec),
    dict(type="PackPoseInputs"),
]
val_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="TopdownAffine", input_size=codec["input_size"]),
    dict(type="PackPoseInputs"),
]

train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(
    metrics=[
        dict(type="JhmdbPCKAccuracy", thr=0.2, norm_item=["bbox", "torso"]),
        dict(type="JhmdbPCKAccuracy", thr=0.1, norm_item="bbox", prefix="strict"),
        dict(type="SparsityMetric"),
    ],
)
test_evaluator = val_evaluator
