"""The dense twin: the headline without gates, on the same frames and crop windows."""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/schedules/adam_20e.py",
    "../_base_/datasets/jhmdb_clips.py",
    "../_base_/models/skip_hrnet_w32.py",
]

model = dict(backbone=dict(gate=None))
