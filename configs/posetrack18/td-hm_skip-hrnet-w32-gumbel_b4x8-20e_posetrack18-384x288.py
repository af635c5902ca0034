"""The paper's Gumbel gates on PoseTrack18 at 384x288."""

_base_ = "td-hm_skip-hrnet-w32-norm_b4x8-20e_posetrack18-384x288.py"

model = dict(
    backbone=dict(
        gate=dict(_delete_=True, type="GumbelGate", block=1, block_mode="fixed"),
        reference="previous",
    ),
    gate_loss=dict(type="GateLoss", weight=1e-4),
)
