"""The dense twin: no gates, at 384x288, on the same frames and crop windows."""

_base_ = "td-hm_skip-hrnet-w32-norm_b4x8-20e_posetrack18-384x288.py"

model = dict(backbone=dict(gate=None))
