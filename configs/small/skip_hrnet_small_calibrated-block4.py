"""Calibrated thresholds (gradient).

    python tools/calibrate.py configs/small/skip_hrnet_small.py \\
        configs/small/hrnet_small_jhmdb-sub1.pth --target-gmacs 0.0375 --clips 8 --frames 24 \\
        --choose order --out configs/small/skip_hrnet_small_calibrated-block4.py \\
        --cfg-options model.backbone.gate.block=4

On 8 training clips (184 frames): 0.03757 GMACs per frame after
a clip's first (dense 0.193), heat map error 23.61% of a frozen first frame's.
Checkpoint: SHA-256 6ee9c7c54db7c8f0...
"""

_base_ = "skip_hrnet_small.py"

thresholds = {
    "backbone.conv1": 0.5595,
    "backbone.conv2": 0.7913,
    "backbone.layer1.0.conv1": 0.5595,
    "backbone.layer1.0.conv2": 0.5595,
    "backbone.layer1.0.conv3": 0.5595,
    "backbone.layer1.1.conv1": 0.2798,
    "backbone.layer1.1.conv2": 0.5595,
    "backbone.layer1.1.conv3": 0.2798,
    "backbone.transition1.0.0": 0.5595,
    "backbone.transition1.1.0.0": 0.3957,
    "backbone.stage2.0.branches.0.0.conv1": 0.5595,
    "backbone.stage2.0.branches.0.0.conv2": 0.5595,
    "backbone.stage2.0.branches.0.1.conv1": 0.5595,
    "backbone.stage2.0.branches.0.1.conv2": 0.5595,
    "backbone.stage2.0.branches.1.0.conv1": 0.3957,
    "backbone.stage2.0.branches.1.0.conv2": 0.1979,
    "backbone.stage2.0.branches.1.1.conv1": 0.2798,
    "backbone.stage2.0.branches.1.1.conv2": 0.1979,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.1399,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.2798,
    "backbone.transition2.2.0.0": 0.0989,
    "backbone.stage3.0.branches.0.0.conv1": 1.119,
    "backbone.stage3.0.branches.0.0.conv2": 1.119,
    "backbone.stage3.0.branches.0.1.conv1": 1.119,
    "backbone.stage3.0.branches.0.1.conv2": 1.119,
    "backbone.stage3.0.branches.1.0.conv1": 0.2798,
    "backbone.stage3.0.branches.1.0.conv2": 0.2798,
    "backbone.stage3.0.branches.1.1.conv1": 0.5595,
    "backbone.stage3.0.branches.1.1.conv2": 0.5595,
    "backbone.stage3.0.branches.2.0.conv1": 0.1979,
    "backbone.stage3.0.branches.2.0.conv2": 0.1399,
    "backbone.stage3.0.branches.2.1.conv1": 0.1978,
    "backbone.stage3.0.branches.2.1.conv2": 0.1399,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.1399,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.1399,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.3957,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.1978,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.3957,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.3957,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.2798,
    "backbone.stage3.1.branches.0.0.conv1": 1.119,
    "backbone.stage3.1.branches.0.0.conv2": 1.119,
    "backbone.stage3.1.branches.0.1.conv1": 1.119,
    "backbone.stage3.1.branches.0.1.conv2": 0.791,
    "backbone.stage3.1.branches.1.0.conv1": 0.3957,
    "backbone.stage3.1.branches.1.0.conv2": 0.3957,
    "backbone.stage3.1.branches.1.1.conv1": 0.2798,
    "backbone.stage3.1.branches.1.1.conv2": 0.5595,
    "backbone.stage3.1.branches.2.0.conv1": 0.2798,
    "backbone.stage3.1.branches.2.0.conv2": 0.1399,
    "backbone.stage3.1.branches.2.1.conv1": 0.2798,
    "backbone.stage3.1.branches.2.1.conv2": 0.1399,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.1399,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.1979,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 1.119,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.1399,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.5595,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.3957,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.5595,
    "backbone.transition3.3.0.0": 0.5595,
    "backbone.stage4.0.branches.0.0.conv1": 1.119,
    "backbone.stage4.0.branches.0.0.conv2": 0.5595,
    "backbone.stage4.0.branches.0.1.conv1": 0.5595,
    "backbone.stage4.0.branches.0.1.conv2": 0.5595,
    "backbone.stage4.0.branches.1.0.conv1": 0.5595,
    "backbone.stage4.0.branches.1.0.conv2": 0.5595,
    "backbone.stage4.0.branches.1.1.conv1": 0.5595,
    "backbone.stage4.0.branches.1.1.conv2": 0.791,
    "backbone.stage4.0.branches.2.0.conv1": 0.3957,
    "backbone.stage4.0.branches.2.0.conv2": 0.1979,
    "backbone.stage4.0.branches.2.1.conv1": 0.3957,
    "backbone.stage4.0.branches.2.1.conv2": 0.2798,
    "backbone.stage4.0.branches.3.0.conv1": 0.5595,
    "backbone.stage4.0.branches.3.0.conv2": 0.1978,
    "backbone.stage4.0.branches.3.1.conv1": 0.5595,
    "backbone.stage4.0.branches.3.1.conv2": 0.1979,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.0989,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.3957,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.1399,
    "head.final_layer": 0.2797,
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
