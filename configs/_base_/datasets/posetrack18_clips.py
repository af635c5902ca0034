# PoseTrack18 as clips of one person. Convert it first: tools/dataset_converters/posetrack18.py.
_base_ = ["jhmdb_clips.py"]

data_root = "{{$SKIPPOSE_POSETRACK18:data/posetrack18}}"
dataset_type = "PoseTrack18Dataset"
codec = dict(type="MSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
metainfo = dict(from_file="configs/_base_/datasets/posetrack18.py")

# mmpose's own transforms with mmpose's own settings for PoseTrack18.
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomHalfBody"),
    dict(type="RandomBBoxTransform"),
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

# Validation videos are labelled in every fourth frame outside their middle: 8 unlabelled frames in
# a row are a label that is missing, more are a person who was away.
max_gap = 8
train_dataloader = dict(
    dataset=dict(
        metainfo=metainfo,
        max_gap=max_gap,
        pipeline=train_pipeline,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            ann_file="annotations/posetrack18_train.json",
        ),
    ),
)
# With detections instead of ground-truth boxes (HeadPCKAccuracy needs ground truth):
#   --cfg-options test_dataloader.dataset.dataset.bbox_file=FILE.json
#       test_dataloader.dataset.dataset.filter_cfg.bbox_score_thr=0.4
val_dataloader = dict(
    dataset=dict(
        metainfo=metainfo,
        max_gap=max_gap,
        pipeline=val_pipeline,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            ann_file="annotations/posetrack18_val.json",
        ),
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    metrics=[
        dict(type="HeadPCKAccuracy", thr=0.5),
        # Needs the package poseval, and one ground-truth file a video in annotations/val.
        dict(
            type="PoseTrack18Metric",
            ann_file=f"{data_root}/annotations/posetrack18_val.json",
            optional=True,
        ),
        dict(type="SparsityMetric"),
    ],
)
test_evaluator = val_evaluator
