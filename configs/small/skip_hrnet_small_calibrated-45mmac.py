"""Calibrated thresholds (gradient).

    python tools/calibrate.py configs/small/skip_hrnet_small.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth --target-gmacs 0.045 --clips 6 --frames 16 \\
        --out configs/small/skip_hrnet_small_calibrated-45mmac.py

On 6 training clips (96 frames): 0.04482 GMACs per frame after
a clip's first (dense 0.193), heat map error 23.44% of a frozen first frame's.
Checkpoint: SHA-256 6ee9c7c54db7c8f0...
"""

_base_ = "skip_hrnet_small.py"

thresholds = {
    "backbone.conv1": 0.1106,
    "backbone.conv2": 0.3129,
    "backbone.layer1.0.conv1": 0.2212,
    "backbone.layer1.0.conv2": 0.1106,
    "backbone.layer1.0.conv3": 0.1564,
    "backbone.layer1.1.conv1": 0.1564,
    "backbone.layer1.1.conv2": 0.1565,
    "backbone.layer1.1.conv3": 0.07824,
    "backbone.transition1.0.0": 0.4424,
    "backbone.transition1.1.0.0": 0.2212,
    "backbone.stage2.0.branches.0.0.conv1": 0.2213,
    "backbone.stage2.0.branches.0.0.conv2": 0.2213,
    "backbone.stage2.0.branches.0.1.conv1": 0.4424,
    "backbone.stage2.0.branches.0.1.conv2": 0.313,
    "backbone.stage2.0.branches.1.0.conv1": 0.1106,
    "backbone.stage2.0.branches.1.0.conv2": 0.1565,
    "backbone.stage2.0.branches.1.1.conv1": 0.1565,
    "backbone.stage2.0.branches.1.1.conv2": 0.2212,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.03911,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.1564,
    "backbone.transition2.2.0.0": 0.07822,
    "backbone.stage3.0.branches.0.0.conv1": 0.6258,
    "backbone.stage3.0.branches.0.0.conv2": 0.6258,
    "backbone.stage3.0.branches.0.1.conv1": 0.4424,
    "backbone.stage3.0.branches.0.1.conv2": 0.4424,
    "backbone.stage3.0.branches.1.0.conv1": 0.1565,
    "backbone.stage3.0.branches.1.0.conv2": 0.2213,
    "backbone.stage3.0.branches.1.1.conv1": 0.2212,
    "backbone.stage3.0.branches.1.1.conv2": 0.3129,
    "backbone.stage3.0.branches.2.0.conv1": 0.1565,
    "backbone.stage3.0.branches.2.0.conv2": 0.1565,
    "backbone.stage3.0.branches.2.1.conv1": 0.2212,
    "backbone.stage3.0.branches.2.1.conv2": 0.1106,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.05531,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.05531,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.3129,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.313,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.3129,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.4425,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.2213,
    "backbone.stage3.1.branches.0.0.conv1": 0.6258,
    "backbone.stage3.1.branches.0.0.conv2": 0.6258,
    "backbone.stage3.1.branches.0.1.conv1": 0.8852,
    "backbone.stage3.1.branches.0.1.conv2": 0.6259,
    "backbone.stage3.1.branches.1.0.conv1": 0.3129,
    "backbone.stage3.1.branches.1.0.conv2": 0.3129,
    "backbone.stage3.1.branches.1.1.conv1": 0.3129,
    "backbone.stage3.1.branches.1.1.conv2": 0.3129,
    "backbone.stage3.1.branches.2.0.conv1": 0.2212,
    "backbone.stage3.1.branches.2.0.conv2": 0.2212,
    "backbone.stage3.1.branches.2.1.conv1": 0.3129,
    "backbone.stage3.1.branches.2.1.conv2": 0.3129,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.1106,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.3129,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.885,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.313,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.885,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.4424,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.3129,
    "backbone.transition3.3.0.0": 0.3129,
    "backbone.stage4.0.branches.0.0.conv1": 0.6258,
    "backbone.stage4.0.branches.0.0.conv2": 0.3129,
    "backbone.stage4.0.branches.0.1.conv1": 0.3129,
    "backbone.stage4.0.branches.0.1.conv2": 0.3129,
    "backbone.stage4.0.branches.1.0.conv1": 0.4424,
    "backbone.stage4.0.branches.1.0.conv2": 0.6258,
    "backbone.stage4.0.branches.1.1.conv1": 0.3129,
    "backbone.stage4.0.branches.1.1.conv2": 0.6258,
    "backbone.stage4.0.branches.2.0.conv1": 0.3129,
    "backbone.stage4.0.branches.2.0.conv2": 0.4424,
    "backbone.stage4.0.branches.2.1.conv1": 0.3129,
    "backbone.stage4.0.branches.2.1.conv2": 0.4424,
    "backbone.stage4.0.branches.3.0.conv1": 0.3129,
    "backbone.stage4.0.branches.3.0.conv2": 0.6258,
    "backbone.stage4.0.branches.3.1.conv1": 0.6258,
    "backbone.stage4.0.branches.3.1.conv2": 0.885,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.07822,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.3129,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.2212,
    "head.final_layer": 0.05531,
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
