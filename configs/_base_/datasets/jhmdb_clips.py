# JHMDB Sub1 as clips of one person. Convert it first: tools/dataset_converters/jhmdb.py.
data_root = "{{$SKIPPOSE_DATA:data/jhmdb}}"
# MMPoseInferencer asks for these two.
data_mode = "topdown"
dataset_type = "JhmdbDataset"
codec = dict(type="MSRAHeatmap", input_size=(256, 256), heatmap_size=(64, 64), sigma=2)
# Here too, because `init_model` looks no deeper than the wrapper.
metainfo = dict(from_file="configs/_base_/datasets/jhmdb.py")

# mmpose's own transforms with mmpose's own settings for JHMDB. ClipDataset draws their random
# parameters once a clip.
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomBBoxTransform", rotate_factor=60, scale_factor=(0.75, 1.25)),
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
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ClipDataset",
        metainfo=metainfo,
        clip_len=8,
        stride=1,
        crop="hysteresis",
        pipeline=train_pipeline,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            data_mode=data_mode,
            ann_file="annotations/Sub1_train.json",
            data_prefix=dict(img=""),
            pipeline=[],
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,  # a whole clip
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type="ClipDataset",
        metainfo=metainfo,
        crop="hysteresis",
        test_mode=True,
        pipeline=val_pipeline,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            data_mode=data_mode,
            ann_file="annotations/Sub1_test.json",
            data_prefix=dict(img=""),
            test_mode=True,
            pipeline=[],
        ),
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="ClipEvaluator",
    metrics=[
        dict(type="JhmdbPCKAccuracy", thr=0.2, norm_item=["bbox", "torso"]),
        dict(type="SparsityMetric"),
    ],
)
test_evaluator = val_evaluator
