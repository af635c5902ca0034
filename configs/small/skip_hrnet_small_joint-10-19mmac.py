"""Calibrated thresholds (global).

    python tools/calibrate.py configs/small/skip_hrnet_small_joint.py \\
        configs/small/hrnet_small_joint-10.pth --global --target-gmacs 0.0193 --clips 40 \\
        --frames 24 --out configs/small/skip_hrnet_small_joint-10-19mmac.py

On 40 training clips (940 frames): 0.01931 GMACs per frame after
a clip's first (dense 0.193), heat map error 35.78% of a frozen first frame's.
Checkpoint: SHA-256 c93defe00f0110e6...
"""

_base_ = "skip_hrnet_small_joint.py"

thresholds = {
    "backbone.conv1": 0.449,
    "backbone.conv2": 0.4995,
    "backbone.layer1.0.conv1": 0.3101,
    "backbone.layer1.0.conv2": 0.3856,
    "backbone.layer1.0.conv3": 0.2871,
    "backbone.layer1.1.conv1": 0.3187,
    "backbone.layer1.1.conv2": 0.3811,
    "backbone.layer1.1.conv3": 0.2604,
    "backbone.transition1.0.0": 0.4521,
    "backbone.transition1.1.0.0": 0.4141,
    "backbone.stage2.0.branches.0.0.conv1": 0.4302,
    "backbone.stage2.0.branches.0.0.conv2": 0.4033,
    "backbone.stage2.0.branches.0.1.conv1": 0.4109,
    "backbone.stage2.0.branches.0.1.conv2": 0.3894,
    "backbone.stage2.0.branches.1.0.conv1": 0.342,
    "backbone.stage2.0.branches.1.0.conv2": 0.3006,
    "backbone.stage2.0.branches.1.1.conv1": 0.343,
    "backbone.stage2.0.branches.1.1.conv2": 0.2601,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.196,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.3144,
    "backbone.transition2.2.0.0": 0.3477,
    "backbone.stage3.0.branches.0.0.conv1": 0.4792,
    "backbone.stage3.0.branches.0.0.conv2": 0.4676,
    "backbone.stage3.0.branches.0.1.conv1": 0.4846,
    "backbone.stage3.0.branches.0.1.conv2": 0.475,
    "backbone.stage3.0.branches.1.0.conv1": 0.3748,
    "backbone.stage3.0.branches.1.0.conv2": 0.3263,
    "backbone.stage3.0.branches.1.1.conv1": 0.3219,
    "backbone.stage3.0.branches.1.1.conv2": 0.3018,
    "backbone.stage3.0.branches.2.0.conv1": 0.4081,
    "backbone.stage3.0.branches.2.0.conv2": 0.3344,
    "backbone.stage3.0.branches.2.1.conv1": 0.2753,
    "backbone.stage3.0.branches.2.1.conv2": 0.1903,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.1933,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.2109,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.3615,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.2282,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.5101,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.4517,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.3909,
    "backbone.stage3.1.branches.0.0.conv1": 0.4588,
    "backbone.stage3.1.branches.0.0.conv2": 0.4029,
    "backbone.stage3.1.branches.0.1.conv1": 0.4963,
    "backbone.stage3.1.branches.0.1.conv2": 0.4631,
    "backbone.stage3.1.branches.1.0.conv1": 0.3573,
    "backbone.stage3.1.branches.1.0.conv2": 0.2843,
    "backbone.stage3.1.branches.1.1.conv1": 0.2695,
    "backbone.stage3.1.branches.1.1.conv2": 0.2265,
    "backbone.stage3.1.branches.2.0.conv1": 0.4289,
    "backbone.stage3.1.branches.2.0.conv2": 0.3247,
    "backbone.stage3.1.branches.2.1.conv1": 0.3701,
    "backbone.stage3.1.branches.2.1.conv2": 0.2178,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.205,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.2016,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.4757,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.2468,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.5224,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.5022,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.5123,
    "backbone.transition3.3.0.0": 0.5286,
    "backbone.stage4.0.branches.0.0.conv1": 0.4335,
    "backbone.stage4.0.branches.0.0.conv2": 0.2497,
    "backbone.stage4.0.branches.0.1.conv1": 0.4101,
    "backbone.stage4.0.branches.0.1.conv2": 0.2174,
    "backbone.stage4.0.branches.1.0.conv1": 0.4093,
    "backbone.stage4.0.branches.1.0.conv2": 0.3928,
    "backbone.stage4.0.branches.1.1.conv1": 0.4033,
    "backbone.stage4.0.branches.1.1.conv2": 0.3781,
    "backbone.stage4.0.branches.2.0.conv1": 0.4676,
    "backbone.stage4.0.branches.2.0.conv2": 0.369,
    "backbone.stage4.0.branches.2.1.conv1": 0.4401,
    "backbone.stage4.0.branches.2.1.conv2": 0.336,
    "backbone.stage4.0.branches.3.0.conv1": 0.5019,
    "backbone.stage4.0.branches.3.0.conv2": 0.4801,
    "backbone.stage4.0.branches.3.1.conv1": 0.5118,
    "backbone.stage4.0.branches.3.1.conv2": 0.4778,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.1946,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.4318,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.2236,
    "head.final_layer": 0.1752,
}
model = dict(
    overrides={
        **{
            name: dict(
                type="InputNormGate",
                block=1,
                block_mode="scaled",
                source="residual",
                scale="relative",
                p=1.0,
                normalize=True,
                eps=eps,
            )
            for name, eps in thresholds.items()
        },
    }
)
