"""Calibrated thresholds (global).

    python tools/calibrate.py configs/small/skip_hrnet_small.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth --global --target-gmacs 0.05 --clips 32 \\
        --frames 12 --choose order --out configs/small/skip_hrnet_small_calibrated-global.py

On 32 training clips (384 frames): 0.05074 GMACs per frame after
a clip's first (dense 0.193), heat map error 7.81% of a frozen first frame's.
Checkpoint: SHA-256 6ee9c7c54db7c8f0...
"""

_base_ = "skip_hrnet_small.py"

thresholds = {
    "backbone.conv1": 0.1828,
    "backbone.conv2": 0.1828,
    "backbone.layer1.0.conv1": 0.1828,
    "backbone.layer1.0.conv2": 0.1828,
    "backbone.layer1.0.conv3": 0.1828,
    "backbone.layer1.1.conv1": 0.1828,
    "backbone.layer1.1.conv2": 0.1828,
    "backbone.layer1.1.conv3": 0.1828,
    "backbone.transition1.0.0": 0.1828,
    "backbone.transition1.1.0.0": 0.1828,
    "backbone.stage2.0.branches.0.0.conv1": 0.1828,
    "backbone.stage2.0.branches.0.0.conv2": 0.1828,
    "backbone.stage2.0.branches.0.1.conv1": 0.1828,
    "backbone.stage2.0.branches.0.1.conv2": 0.1828,
    "backbone.stage2.0.branches.1.0.conv1": 0.1828,
    "backbone.stage2.0.branches.1.0.conv2": 0.1828,
    "backbone.stage2.0.branches.1.1.conv1": 0.1828,
    "backbone.stage2.0.branches.1.1.conv2": 0.1828,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.1828,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.1828,
    "backbone.transition2.2.0.0": 0.1828,
    "backbone.stage3.0.branches.0.0.conv1": 0.1828,
    "backbone.stage3.0.branches.0.0.conv2": 0.1828,
    "backbone.stage3.0.branches.0.1.conv1": 0.1828,
    "backbone.stage3.0.branches.0.1.conv2": 0.1828,
    "backbone.stage3.0.branches.1.0.conv1": 0.1828,
    "backbone.stage3.0.branches.1.0.conv2": 0.1828,
    "backbone.stage3.0.branches.1.1.conv1": 0.1828,
    "backbone.stage3.0.branches.1.1.conv2": 0.1828,
    "backbone.stage3.0.branches.2.0.conv1": 0.1828,
    "backbone.stage3.0.branches.2.0.conv2": 0.1828,
    "backbone.stage3.0.branches.2.1.conv1": 0.1828,
    "backbone.stage3.0.branches.2.1.conv2": 0.1828,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.1828,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.1828,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.1828,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.1828,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.1828,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.1828,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.1828,
    "backbone.stage3.1.branches.0.0.conv1": 0.1828,
    "backbone.stage3.1.branches.0.0.conv2": 0.1828,
    "backbone.stage3.1.branches.0.1.conv1": 0.1828,
    "backbone.stage3.1.branches.0.1.conv2": 0.1828,
    "backbone.stage3.1.branches.1.0.conv1": 0.1828,
    "backbone.stage3.1.branches.1.0.conv2": 0.1828,
    "backbone.stage3.1.branches.1.1.conv1": 0.1828,
    "backbone.stage3.1.branches.1.1.conv2": 0.1828,
    "backbone.stage3.1.branches.2.0.conv1": 0.1828,
    "backbone.stage3.1.branches.2.0.conv2": 0.1828,
    "backbone.stage3.1.branches.2.1.conv1": 0.1828,
    "backbone.stage3.1.branches.2.1.conv2": 0.1828,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.1828,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.1828,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.1828,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.1828,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.1828,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.1828,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.1828,
    "backbone.transition3.3.0.0": 0.1828,
    "backbone.stage4.0.branches.0.0.conv1": 0.1828,
    "backbone.stage4.0.branches.0.0.conv2": 0.1828,
    "backbone.stage4.0.branches.0.1.conv1": 0.1828,
    "backbone.stage4.0.branches.0.1.conv2": 0.1828,
    "backbone.stage4.0.branches.1.0.conv1": 0.1828,
    "backbone.stage4.0.branches.1.0.conv2": 0.1828,
    "backbone.stage4.0.branches.1.1.conv1": 0.1828,
    "backbone.stage4.0.branches.1.1.conv2": 0.1828,
    "backbone.stage4.0.branches.2.0.conv1": 0.1828,
    "backbone.stage4.0.branches.2.0.conv2": 0.1828,
    "backbone.stage4.0.branches.2.1.conv1": 0.1828,
    "backbone.stage4.0.branches.2.1.conv2": 0.1828,
    "backbone.stage4.0.branches.3.0.conv1": 0.1828,
    "backbone.stage4.0.branches.3.0.conv2": 0.1828,
    "backbone.stage4.0.branches.3.1.conv1": 0.1828,
    "backbone.stage4.0.branches.3.1.conv2": 0.1828,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.1828,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.1828,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.1828,
    "head.final_layer": 0.1828,
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
