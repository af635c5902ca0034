"""Calibrated thresholds (gradient).

    python tools/calibrate.py configs/small/skip_hrnet_small.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth --target-gmacs 0.055 --clips 6 --frames 16 \\
        --choose order --out configs/small/skip_hrnet_small_calibrated-block4-55mmac.py \\
        --cfg-options model.backbone.gate.block=4

On 6 training clips (96 frames): 0.05428 GMACs per frame after
a clip's first (dense 0.193), heat map error 16.61% of a frozen first frame's.
Checkpoint: SHA-256 6ee9c7c54db7c8f0...
"""

_base_ = "skip_hrnet_small.py"

thresholds = {
    "backbone.conv1": 0.2014,
    "backbone.conv2": 0.5698,
    "backbone.layer1.0.conv1": 0.4029,
    "backbone.layer1.0.conv2": 0.4029,
    "backbone.layer1.0.conv3": 0.2849,
    "backbone.layer1.1.conv1": 0.2848,
    "backbone.layer1.1.conv2": 0.4029,
    "backbone.layer1.1.conv3": 0.05036,
    "backbone.transition1.0.0": 0.4029,
    "backbone.transition1.1.0.0": 0.4029,
    "backbone.stage2.0.branches.0.0.conv1": 0.5698,
    "backbone.stage2.0.branches.0.0.conv2": 0.5698,
    "backbone.stage2.0.branches.0.1.conv1": 0.2849,
    "backbone.stage2.0.branches.0.1.conv2": 0.4029,
    "backbone.stage2.0.branches.1.0.conv1": 0.2014,
    "backbone.stage2.0.branches.1.0.conv2": 0.2014,
    "backbone.stage2.0.branches.1.1.conv1": 0.2014,
    "backbone.stage2.0.branches.1.1.conv2": 0.2014,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.1424,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.2848,
    "backbone.transition2.2.0.0": 0.1007,
    "backbone.stage3.0.branches.0.0.conv1": 1.611,
    "backbone.stage3.0.branches.0.0.conv2": 1.139,
    "backbone.stage3.0.branches.0.1.conv1": 0.8057,
    "backbone.stage3.0.branches.0.1.conv2": 0.8057,
    "backbone.stage3.0.branches.1.0.conv1": 0.2849,
    "backbone.stage3.0.branches.1.0.conv2": 0.2014,
    "backbone.stage3.0.branches.1.1.conv1": 0.2014,
    "backbone.stage3.0.branches.1.1.conv2": 0.2849,
    "backbone.stage3.0.branches.2.0.conv1": 0.2014,
    "backbone.stage3.0.branches.2.0.conv2": 0.1424,
    "backbone.stage3.0.branches.2.1.conv1": 0.1424,
    "backbone.stage3.0.branches.2.1.conv2": 0.1424,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.1007,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.05036,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.2014,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.2014,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.2014,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.2849,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.1424,
    "backbone.stage3.1.branches.0.0.conv1": 0.5697,
    "backbone.stage3.1.branches.0.0.conv2": 0.8057,
    "backbone.stage3.1.branches.0.1.conv1": 0.8057,
    "backbone.stage3.1.branches.0.1.conv2": 1.139,
    "backbone.stage3.1.branches.1.0.conv1": 0.4029,
    "backbone.stage3.1.branches.1.0.conv2": 0.2849,
    "backbone.stage3.1.branches.1.1.conv1": 0.2849,
    "backbone.stage3.1.branches.1.1.conv2": 0.4029,
    "backbone.stage3.1.branches.2.0.conv1": 0.2014,
    "backbone.stage3.1.branches.2.0.conv2": 0.2848,
    "backbone.stage3.1.branches.2.1.conv1": 0.2014,
    "backbone.stage3.1.branches.2.1.conv2": 0.2014,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.07122,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.07122,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.8057,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.07122,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.8057,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.2014,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.4029,
    "backbone.transition3.3.0.0": 0.4029,
    "backbone.stage4.0.branches.0.0.conv1": 0.5697,
    "backbone.stage4.0.branches.0.0.conv2": 0.5698,
    "backbone.stage4.0.branches.0.1.conv1": 0.5698,
    "backbone.stage4.0.branches.0.1.conv2": 0.4029,
    "backbone.stage4.0.branches.1.0.conv1": 0.4029,
    "backbone.stage4.0.branches.1.0.conv2": 0.5697,
    "backbone.stage4.0.branches.1.1.conv1": 0.4029,
    "backbone.stage4.0.branches.1.1.conv2": 0.4029,
    "backbone.stage4.0.branches.2.0.conv1": 0.4029,
    "backbone.stage4.0.branches.2.0.conv2": 0.2849,
    "backbone.stage4.0.branches.2.1.conv1": 0.2849,
    "backbone.stage4.0.branches.2.1.conv2": 0.2848,
    "backbone.stage4.0.branches.3.0.conv1": 0.4029,
    "backbone.stage4.0.branches.3.0.conv2": 0.4029,
    "backbone.stage4.0.branches.3.1.conv1": 0.8057,
    "backbone.stage4.0.branches.3.1.conv2": 0.4028,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.1007,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.2014,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.1424,
    "head.final_layer": 0.2014,
}
model = dict(
    overrides={
        **{
            name: dict(
                type="InputNormGate",
                block=4,
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
