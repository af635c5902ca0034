"""HRNet-W32 on PoseTrack18 with the gates of the headline: `hold`, relative norm thresholds.

python tools/dataset_converters/posetrack18.py --src /path/to/posetrack18 --out data/posetrack18
python tools/train.py configs/posetrack18/td-hm_skip-hrnet-w32-norm_b4x8-20e_posetrack18-256x192.py
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/schedules/adam_20e.py",
    "../_base_/datasets/posetrack18_clips.py",
    "../_base_/models/skip_hrnet_w32.py",
]

# mmpose starts its PoseTrack18 networks from the same checkpoint for COCO; both have 17 joints of
# which some mean others, so that the last layer is loaded too, as mmpose does.
model = dict(
    head=dict(
        out_channels=17,
        decoder=dict(input_size=(192, 256), heatmap_size=(48, 64), sigma=2),
    ),
    test_cfg=dict(chunk=16),  # whole videos are long
)
default_hooks = dict(checkpoint=dict(save_best="PCKh"))
# mmpose's schedule for PoseTrack18 steps later than its for JHMDB.
param_scheduler = [
    dict(type="LinearLR", begin=0, end=500, start_factor=0.001, by_epoch=False),  # warm-up
    dict(type="MultiStepLR", begin=0, end=20, milestones=[10, 15], gamma=0.1, by_epoch=True),
]
