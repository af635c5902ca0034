"""The twin of fine-tuning through norm gates: as long and alike, but with gates that stay open."""

from mmengine.config import Config

_base_ = ["skip_hrnet_small_trained-norm.py"]

calibrated = Config.fromfile("{{ fileDirname }}/skip_hrnet_small_calibrated.py")
model = dict(overrides=calibrated.model.overrides.to_dict())
del Config, calibrated
