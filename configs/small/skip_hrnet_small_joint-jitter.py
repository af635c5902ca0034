"""Thresholds and network trained together on cameras that shake and light that drifts."""

_base_ = ["skip_hrnet_small_joint.py"]

train_pipeline = [
    dict(type="LoadImage"),
    dict(type="ClipExposureDrift"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomBBoxTransform", shift_factor=0.1, scale_factor=(0.75, 1.25), rotate_factor=30),
    dict(type="ClipCameraJitter"),
    dict(type="TopdownAffine", input_size={{_base_.codec.input_size}}),
    dict(type="GenerateTarget", encoder={{_base_.codec}}),
    dict(type="PackPoseInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
