"""The headline: HRNet-W32 on JHMDB Sub1, `hold` gates with thresholds relative to each layer.

    python tools/train.py configs/skip_hrnet_w32.py
    python tools/test.py configs/skip_hrnet_w32.py work_dirs/skip_hrnet_w32/best_PCK_epoch_*.pth

Its dense twins stand in configs/dense, the paper's own settings in configs/paper.
"""

_base_ = [
    "_base_/default_runtime.py",
    "_base_/schedules/adam_20e.py",
    "_base_/datasets/jhmdb_clips.py",
    "_base_/models/skip_hrnet_w32.py",
]
