"""Calibrated thresholds (gradient).

    python tools/calibrate.py configs/small/skip_hrnet_small.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth --target-gmacs 0.047 --clips 8 --choose order \\
        --frames 16 --out configs/small/skip_hrnet_small_calibrated-47mmac.py

On 8 training clips (128 frames): 0.04683 GMACs per frame after
a clip's first (dense 0.193), heat map error 9.89% of a frozen first frame's.
Checkpoint: SHA-256 6ee9c7c54db7c8f0...
"""

_base_ = "skip_hrnet_small.py"

thresholds = {
    "backbone.conv1": 0.2131,
    "backbone.conv2": 0.2131,
    "backbone.layer1.0.conv1": 0.02664,
    "backbone.layer1.0.conv2": 0.07536,
    "backbone.layer1.0.conv3": 0.1066,
    "backbone.layer1.1.conv1": 0.1066,
    "backbone.layer1.1.conv2": 0.1507,
    "backbone.layer1.1.conv3": 0.07536,
    "backbone.transition1.0.0": 0.2131,
    "backbone.transition1.1.0.0": 0.2131,
    "backbone.stage2.0.branches.0.0.conv1": 0.2131,
    "backbone.stage2.0.branches.0.0.conv2": 0.1507,
    "backbone.stage2.0.branches.0.1.conv1": 0.3014,
    "backbone.stage2.0.branches.0.1.conv2": 0.2131,
    "backbone.stage2.0.branches.1.0.conv1": 0.1507,
    "backbone.stage2.0.branches.1.0.conv2": 0.1507,
    "backbone.stage2.0.branches.1.1.conv1": 0.1066,
    "backbone.stage2.0.branches.1.1.conv2": 0.1507,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.1066,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.07536,
    "backbone.transition2.2.0.0": 0.05329,
    "backbone.stage3.0.branches.0.0.conv1": 0.4263,
    "backbone.stage3.0.branches.0.0.conv2": 0.3014,
    "backbone.stage3.0.branches.0.1.conv1": 0.4263,
    "backbone.stage3.0.branches.0.1.conv2": 0.4263,
    "backbone.stage3.0.branches.1.0.conv1": 0.2131,
    "backbone.stage3.0.branches.1.0.conv2": 0.1507,
    "backbone.stage3.0.branches.1.1.conv1": 0.1507,
    "backbone.stage3.0.branches.1.1.conv2": 0.2131,
    "backbone.stage3.0.branches.2.0.conv1": 0.1066,
    "backbone.stage3.0.branches.2.0.conv2": 0.1066,
    "backbone.stage3.0.branches.2.1.conv1": 0.1066,
    "backbone.stage3.0.branches.2.1.conv2": 0.1066,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.1066,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.02664,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.1507,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.05329,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.2131,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.1066,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.1507,
    "backbone.stage3.1.branches.0.0.conv1": 0.4263,
    "backbone.stage3.1.branches.0.0.conv2": 0.3014,
    "backbone.stage3.1.branches.0.1.conv1": 0.4263,
    "backbone.stage3.1.branches.0.1.conv2": 0.4263,
    "backbone.stage3.1.branches.1.0.conv1": 0.2131,
    "backbone.stage3.1.branches.1.0.conv2": 0.2131,
    "backbone.stage3.1.branches.1.1.conv1": 0.2131,
    "backbone.stage3.1.branches.1.1.conv2": 0.2131,
    "backbone.stage3.1.branches.2.0.conv1": 0.2131,
    "backbone.stage3.1.branches.2.0.conv2": 0.2131,
    "backbone.stage3.1.branches.2.1.conv1": 0.1066,
    "backbone.stage3.1.branches.2.1.conv2": 0.2131,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.1507,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.1507,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.4263,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.07536,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.2131,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.2131,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.2131,
    "backbone.transition3.3.0.0": 0.1507,
    "backbone.stage4.0.branches.0.0.conv1": 0.4263,
    "backbone.stage4.0.branches.0.0.conv2": 0.2131,
    "backbone.stage4.0.branches.0.1.conv1": 0.4263,
    "backbone.stage4.0.branches.0.1.conv2": 0.1507,
    "backbone.stage4.0.branches.1.0.conv1": 0.3014,
    "backbone.stage4.0.branches.1.0.conv2": 0.3014,
    "backbone.stage4.0.branches.1.1.conv1": 0.3014,
    "backbone.stage4.0.branches.1.1.conv2": 0.4263,
    "backbone.stage4.0.branches.2.0.conv1": 0.2131,
    "backbone.stage4.0.branches.2.0.conv2": 0.2131,
    "backbone.stage4.0.branches.2.1.conv1": 0.2131,
    "backbone.stage4.0.branches.2.1.conv2": 0.2131,
    "backbone.stage4.0.branches.3.0.conv1": 0.2131,
    "backbone.stage4.0.branches.3.0.conv2": 0.2131,
    "backbone.stage4.0.branches.3.1.conv1": 0.3014,
    "backbone.stage4.0.branches.3.1.conv2": 0.3014,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.07536,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.07536,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.03768,
    "head.final_layer": 0.07536,
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
