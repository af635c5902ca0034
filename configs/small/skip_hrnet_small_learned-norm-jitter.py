"""Norm gates that learn their thresholds on cameras that shake and light that drifts."""

from mmengine.config import Config

_base_ = ["skip_hrnet_small_learned-norm-calibrated.py"]

jitter = Config.fromfile("{{ fileDirname }}/skip_hrnet_small_gumbel-jitter.py")
train_dataloader = dict(dataset=dict(pipeline=jitter.train_pipeline))
del Config, jitter
