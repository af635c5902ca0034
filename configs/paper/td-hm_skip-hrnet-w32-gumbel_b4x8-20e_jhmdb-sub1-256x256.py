"""Skip-Convolutions with Gumbel gates as in the paper (Habibian et al., CVPR 2021), on JHMDB Sub1.

The paper's: the policy `previous`, a gate convolution on each layer's residual trained with the
network, the temperature 2/3, the gate loss weighted by each layer's MACs. Ours: the weight of the
gate loss, which trades MACs for accuracy, and the schedule.
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/schedules/adam_20e.py",
    "../_base_/datasets/jhmdb_clips.py",
    "../_base_/models/skip_hrnet_w32.py",
]

model = dict(
    backbone=dict(
        gate=dict(_delete_=True, type="GumbelGate", block=1, block_mode="fixed"),
        reference="previous",
    ),
    gate_loss=dict(type="GateLoss", weight=1e-4),
)
