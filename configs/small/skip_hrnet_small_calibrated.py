"""Calibrated thresholds (gradient).

    python tools/calibrate.py configs/small/skip_hrnet_small.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth --target-gmacs 0.0275 --clips 8 --frames 24 \\
        --choose order --out configs/small/skip_hrnet_small_calibrated.py

On 8 training clips (184 frames): 0.02781 GMACs per frame after
a clip's first (dense 0.193), heat map error 32.86% of a frozen first frame's.
Checkpoint: SHA-256 6ee9c7c54db7c8f0...
"""

_base_ = "skip_hrnet_small.py"

thresholds = {
    "backbone.conv1": 0.3667,
    "backbone.conv2": 0.3667,
    "backbone.layer1.0.conv1": 0.3667,
    "backbone.layer1.0.conv2": 0.2593,
    "backbone.layer1.0.conv3": 0.1296,
    "backbone.layer1.1.conv1": 0.1296,
    "backbone.layer1.1.conv2": 0.3667,
    "backbone.layer1.1.conv3": 0.3667,
    "backbone.transition1.0.0": 0.3667,
    "backbone.transition1.1.0.0": 0.3667,
    "backbone.stage2.0.branches.0.0.conv1": 0.3666,
    "backbone.stage2.0.branches.0.0.conv2": 0.3667,
    "backbone.stage2.0.branches.0.1.conv1": 0.5186,
    "backbone.stage2.0.branches.0.1.conv2": 0.2593,
    "backbone.stage2.0.branches.1.0.conv1": 0.1833,
    "backbone.stage2.0.branches.1.0.conv2": 0.2593,
    "backbone.stage2.0.branches.1.1.conv1": 0.2593,
    "backbone.stage2.0.branches.1.1.conv2": 0.1833,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.1833,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.1833,
    "backbone.transition2.2.0.0": 0.1833,
    "backbone.stage3.0.branches.0.0.conv1": 0.7333,
    "backbone.stage3.0.branches.0.0.conv2": 0.5185,
    "backbone.stage3.0.branches.0.1.conv1": 0.7333,
    "backbone.stage3.0.branches.0.1.conv2": 0.5185,
    "backbone.stage3.0.branches.1.0.conv1": 0.1833,
    "backbone.stage3.0.branches.1.0.conv2": 0.2592,
    "backbone.stage3.0.branches.1.1.conv1": 0.3667,
    "backbone.stage3.0.branches.1.1.conv2": 0.2593,
    "backbone.stage3.0.branches.2.0.conv1": 0.1833,
    "backbone.stage3.0.branches.2.0.conv2": 0.1834,
    "backbone.stage3.0.branches.2.1.conv1": 0.3667,
    "backbone.stage3.0.branches.2.1.conv2": 0.1834,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.09165,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.09165,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.2592,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.1833,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.3666,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.2592,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.3667,
    "backbone.stage3.1.branches.0.0.conv1": 0.7333,
    "backbone.stage3.1.branches.0.0.conv2": 0.5185,
    "backbone.stage3.1.branches.0.1.conv1": 0.7333,
    "backbone.stage3.1.branches.0.1.conv2": 0.7333,
    "backbone.stage3.1.branches.1.0.conv1": 0.3667,
    "backbone.stage3.1.branches.1.0.conv2": 0.3666,
    "backbone.stage3.1.branches.1.1.conv1": 0.3667,
    "backbone.stage3.1.branches.1.1.conv2": 0.2592,
    "backbone.stage3.1.branches.2.0.conv1": 0.3667,
    "backbone.stage3.1.branches.2.0.conv2": 0.1833,
    "backbone.stage3.1.branches.2.1.conv1": 0.2593,
    "backbone.stage3.1.branches.2.1.conv2": 0.3667,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.1833,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.09166,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 1.037,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.1834,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.7333,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.2593,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.3667,
    "backbone.transition3.3.0.0": 0.3667,
    "backbone.stage4.0.branches.0.0.conv1": 0.5186,
    "backbone.stage4.0.branches.0.0.conv2": 0.3667,
    "backbone.stage4.0.branches.0.1.conv1": 0.5186,
    "backbone.stage4.0.branches.0.1.conv2": 0.3667,
    "backbone.stage4.0.branches.1.0.conv1": 0.5186,
    "backbone.stage4.0.branches.1.0.conv2": 0.5186,
    "backbone.stage4.0.branches.1.1.conv1": 0.5186,
    "backbone.stage4.0.branches.1.1.conv2": 0.7333,
    "backbone.stage4.0.branches.2.0.conv1": 0.3667,
    "backbone.stage4.0.branches.2.0.conv2": 0.1833,
    "backbone.stage4.0.branches.2.1.conv1": 0.3667,
    "backbone.stage4.0.branches.2.1.conv2": 0.3667,
    "backbone.stage4.0.branches.3.0.conv1": 0.3667,
    "backbone.stage4.0.branches.3.0.conv2": 0.3667,
    "backbone.stage4.0.branches.3.1.conv1": 0.7333,
    "backbone.stage4.0.branches.3.1.conv2": 0.5185,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.09165,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.3667,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.1833,
    "head.final_layer": 0.09166,
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
                train_gates=False,
                eps=eps,
            )
            for name, eps in thresholds.items()
        },
    }
)
