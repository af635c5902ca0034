"""Skip-Convolutions with norm gates as in the paper (Habibian et al., CVPR 2021), on JHMDB Sub1.

The paper's: the policy `previous`, one absolute threshold for all layers, the output norm as a raw
sum, no gates while training. Ours: the schedule, and the threshold: a raw sum grows with a layer's
width and weights, so set it for the network at hand by the GMACs that a test prints
(--cfg-options model.backbone.gate.eps=...).
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/schedules/adam_20e.py",
    "../_base_/datasets/jhmdb_clips.py",
    "../_base_/models/skip_hrnet_w32.py",
]

model = dict(
    backbone=dict(
        gate=dict(
            _delete_=True,
            type="OutputNormGate",
            eps=100.0,
            scale="absolute",
            normalize=False,
            block=1,
            block_mode="fixed",
        ),
        reference="previous",
    ),
)
