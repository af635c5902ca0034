# Synthetic clips in JHMDB's layout, at half the size of JHMDB's crops:
# python tools/dataset_converters/synthetic.py --out data/synthetic
_base_ = ["jhmdb_clips.py"]

data_root = "{{$SKIPPOSE_SYNTHETIC:data/synthetic}}"
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

train_dataloader = dict(
    num_workers=1, dataset=dict(pipeline=train_pipeline, dataset=dict(data_root=data_root))
)
val_dataloader = dict(
    num_workers=1, dataset=dict(pipeline=val_pipeline, dataset=dict(data_root=data_root))
)
test_dataloader = val_dataloader

val_evaluator = dict(
    metrics=[
        dict(type="JhmdbPCKAccuracy", thr=0.2, norm_item=["bbox", "torso"]),
        dict(type="JhmdbPCKAccuracy", thr=0.1, norm_item="bbox", prefix="strict"),
        dict(type="SparsityMetric"),
    ],
)
test_evaluator = val_evaluator
