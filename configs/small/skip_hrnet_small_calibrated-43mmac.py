"""Calibrated thresholds (gradient).

    python tools/calibrate.py configs/small/skip_hrnet_small.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth --target-gmacs 0.043 --out \\
        configs/small/skip_hrnet_small_calibrated-43mmac.py

On 24 training clips (288 frames): 0.04383 GMACs per frame after
a clip's first (dense 0.193), heat map error 11.22% of a frozen first frame's.
Checkpoint: SHA-256 6ee9c7c54db7c8f0...
"""

_base_ = "skip_hrnet_small.py"

thresholds = {
    "backbone.conv1": 0.2246,
    "backbone.conv2": 0.2246,
    "backbone.layer1.0.conv1": 0.1123,
    "backbone.layer1.0.conv2": 0.2246,
    "backbone.layer1.0.conv3": 0.05616,
    "backbone.layer1.1.conv1": 0.1123,
    "backbone.layer1.1.conv2": 0.1123,
    "backbone.layer1.1.conv3": 0.1123,
    "backbone.transition1.0.0": 0.2246,
    "backbone.transition1.1.0.0": 0.2246,
    "backbone.stage2.0.branches.0.0.conv1": 0.1123,
    "backbone.stage2.0.branches.0.0.conv2": 0.2246,
    "backbone.stage2.0.branches.0.1.conv1": 0.2246,
    "backbone.stage2.0.branches.0.1.conv2": 0.1588,
    "backbone.stage2.0.branches.1.0.conv1": 0.1123,
    "backbone.stage2.0.branches.1.0.conv2": 0.1123,
    "backbone.stage2.0.branches.1.1.conv1": 0.1588,
    "backbone.stage2.0.branches.1.1.conv2": 0.1588,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.07942,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.1123,
    "backbone.transition2.2.0.0": 0.1123,
    "backbone.stage3.0.branches.0.0.conv1": 0.4493,
    "backbone.stage3.0.branches.0.0.conv2": 0.3177,
    "backbone.stage3.0.branches.0.1.conv1": 0.3176,
    "backbone.stage3.0.branches.0.1.conv2": 0.4492,
    "backbone.stage3.0.branches.1.0.conv1": 0.2246,
    "backbone.stage3.0.branches.1.0.conv2": 0.1588,
    "backbone.stage3.0.branches.1.1.conv1": 0.1588,
    "backbone.stage3.0.branches.1.1.conv2": 0.2246,
    "backbone.stage3.0.branches.2.0.conv1": 0.1123,
    "backbone.stage3.0.branches.2.0.conv2": 0.1123,
    "backbone.stage3.0.branches.2.1.conv1": 0.1123,
    "backbone.stage3.0.branches.2.1.conv2": 0.1123,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.07941,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.03971,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.2246,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.03971,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.2246,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.1588,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.1588,
    "backbone.stage3.1.branches.0.0.conv1": 0.4493,
    "backbone.stage3.1.branches.0.0.conv2": 0.4493,
    "backbone.stage3.1.branches.0.1.conv1": 0.4493,
    "backbone.stage3.1.branches.0.1.conv2": 0.4493,
    "backbone.stage3.1.branches.1.0.conv1": 0.2246,
    "backbone.stage3.1.branches.1.0.conv2": 0.2246,
    "backbone.stage3.1.branches.1.1.conv1": 0.2246,
    "backbone.stage3.1.branches.1.1.conv2": 0.2246,
    "backbone.stage3.1.branches.2.0.conv1": 0.2246,
    "backbone.stage3.1.branches.2.0.conv2": 0.1588,
    "backbone.stage3.1.branches.2.1.conv1": 0.2246,
    "backbone.stage3.1.branches.2.1.conv2": 0.1588,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.05616,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.03971,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.4493,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.1123,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.4493,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.1588,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.2246,
    "backbone.transition3.3.0.0": 0.2246,
    "backbone.stage4.0.branches.0.0.conv1": 0.4493,
    "backbone.stage4.0.branches.0.0.conv2": 0.2246,
    "backbone.stage4.0.branches.0.1.conv1": 0.3176,
    "backbone.stage4.0.branches.0.1.conv2": 0.2246,
    "backbone.stage4.0.branches.1.0.conv1": 0.3176,
    "backbone.stage4.0.branches.1.0.conv2": 0.4493,
    "backbone.stage4.0.branches.1.1.conv1": 0.3177,
    "backbone.stage4.0.branches.1.1.conv2": 0.4493,
    "backbone.stage4.0.branches.2.0.conv1": 0.2246,
    "backbone.stage4.0.branches.2.0.conv2": 0.2246,
    "backbone.stage4.0.branches.2.1.conv1": 0.2246,
    "backbone.stage4.0.branches.2.1.conv2": 0.3176,
    "backbone.stage4.0.branches.3.0.conv1": 0.2246,
    "backbone.stage4.0.branches.3.0.conv2": 0.2246,
    "backbone.stage4.0.branches.3.1.conv1": 0.2246,
    "backbone.stage4.0.branches.3.1.conv2": 0.2246,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.1123,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.1588,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.07942,
    "head.final_layer": 0.02808,
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
