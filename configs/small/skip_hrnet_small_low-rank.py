"""The small Skip-HRNet with its 3x3 convolutions factored: fewer MACs before any is skipped.

    python tools/test.py configs/small/skip_hrnet_small_low-rank.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth

The checkpoint is that of the network that is not factored; nothing is trained.
"""

_base_ = ["skip_hrnet_small.py"]

model = dict(type="LowRankTopdownPoseEstimator", share=0.8)
