"""Thresholds and network trained together on clips varied as widely as the dense network's frames.

Row `joint, annealed, wide/0.1` of tools/learned_gates.py, measured on the 37 test clips and on no
other clips.
"""

_base_ = ["skip_hrnet_small_joint.py"]

train_pipeline = [
    dict(type="LoadImage"),
    dict(type="ClipExposureDrift"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomHalfBody"),
    dict(
        type="RandomBBoxTransform", shift_factor=0.16, scale_factor=(0.65, 1.35), rotate_factor=60
    ),
    dict(type="ClipCameraJitter"),
    dict(type="TopdownAffine", input_size={{_base_.codec.input_size}}),
    dict(type="PhotometricDistortion"),
    dict(type="GenerateTarget", encoder={{_base_.codec}}),
    dict(type="PackPoseInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
