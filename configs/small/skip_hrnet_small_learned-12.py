"""Calibrated thresholds (global).

    python tools/calibrate.py configs/small/skip_hrnet_small_learned-norm-calibrated.py \\
        work_dirs/learned_gates/learned-thresholds_0.12/iter_300.pth --global --target-gmacs \\
        0.02316 --clips 40 --frames 24 --out configs/small/skip_hrnet_small_learned-12.py

On 40 training clips (940 frames): 0.02343 GMACs per frame after
a clip's first (dense 0.193), heat map error 32.89% of a frozen first frame's.
Checkpoint: SHA-256 3677a6dbb0d8abc0...
"""

_base_ = "skip_hrnet_small_learned-norm-calibrated.py"

thresholds = {
    "backbone.conv1": 0.3721,
    "backbone.conv2": 0.4692,
    "backbone.layer1.0.conv1": 0.3658,
    "backbone.layer1.0.conv2": 0.2799,
    "backbone.layer1.0.conv3": 0.146,
    "backbone.layer1.1.conv1": 0.1728,
    "backbone.layer1.1.conv2": 0.3398,
    "backbone.layer1.1.conv3": 0.3039,
    "backbone.transition1.0.0": 0.4151,
    "backbone.transition1.1.0.0": 0.3271,
    "backbone.stage2.0.branches.0.0.conv1": 0.3935,
    "backbone.stage2.0.branches.0.0.conv2": 0.392,
    "backbone.stage2.0.branches.0.1.conv1": 0.4388,
    "backbone.stage2.0.branches.0.1.conv2": 0.3001,
    "backbone.stage2.0.branches.1.0.conv1": 0.1946,
    "backbone.stage2.0.branches.1.0.conv2": 0.2538,
    "backbone.stage2.0.branches.1.1.conv1": 0.263,
    "backbone.stage2.0.branches.1.1.conv2": 0.2155,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.1991,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.1974,
    "backbone.transition2.2.0.0": 0.2121,
    "backbone.stage3.0.branches.0.0.conv1": 0.7183,
    "backbone.stage3.0.branches.0.0.conv2": 0.4945,
    "backbone.stage3.0.branches.0.1.conv1": 0.8376,
    "backbone.stage3.0.branches.0.1.conv2": 0.5905,
    "backbone.stage3.0.branches.1.0.conv1": 0.2158,
    "backbone.stage3.0.branches.1.0.conv2": 0.2777,
    "backbone.stage3.0.branches.1.1.conv1": 0.2937,
    "backbone.stage3.0.branches.1.1.conv2": 0.2633,
    "backbone.stage3.0.branches.2.0.conv1": 0.2254,
    "backbone.stage3.0.branches.2.0.conv2": 0.2343,
    "backbone.stage3.0.branches.2.1.conv1": 0.3166,
    "backbone.stage3.0.branches.2.1.conv2": 0.185,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.1173,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.08081,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.2715,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.167,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.4349,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.3248,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.3805,
    "backbone.stage3.1.branches.0.0.conv1": 0.7057,
    "backbone.stage3.1.branches.0.0.conv2": 0.4926,
    "backbone.stage3.1.branches.0.1.conv1": 0.7541,
    "backbone.stage3.1.branches.0.1.conv2": 0.6207,
    "backbone.stage3.1.branches.1.0.conv1": 0.3115,
    "backbone.stage3.1.branches.1.0.conv2": 0.3034,
    "backbone.stage3.1.branches.1.1.conv1": 0.2797,
    "backbone.stage3.1.branches.1.1.conv2": 0.2377,
    "backbone.stage3.1.branches.2.0.conv1": 0.3766,
    "backbone.stage3.1.branches.2.0.conv2": 0.2219,
    "backbone.stage3.1.branches.2.1.conv1": 0.3168,
    "backbone.stage3.1.branches.2.1.conv2": 0.3125,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.1618,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.08795,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.8775,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.2007,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.7957,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.3167,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.5142,
    "backbone.transition3.3.0.0": 0.6037,
    "backbone.stage4.0.branches.0.0.conv1": 0.4851,
    "backbone.stage4.0.branches.0.0.conv2": 0.2756,
    "backbone.stage4.0.branches.0.1.conv1": 0.452,
    "backbone.stage4.0.branches.0.1.conv2": 0.2604,
    "backbone.stage4.0.branches.1.0.conv1": 0.4714,
    "backbone.stage4.0.branches.1.0.conv2": 0.4555,
    "backbone.stage4.0.branches.1.1.conv1": 0.4861,
    "backbone.stage4.0.branches.1.1.conv2": 0.538,
    "backbone.stage4.0.branches.2.0.conv1": 0.4306,
    "backbone.stage4.0.branches.2.0.conv2": 0.2385,
    "backbone.stage4.0.branches.2.1.conv1": 0.4086,
    "backbone.stage4.0.branches.2.1.conv2": 0.3447,
    "backbone.stage4.0.branches.3.0.conv1": 0.5829,
    "backbone.stage4.0.branches.3.0.conv2": 0.5518,
    "backbone.stage4.0.branches.3.1.conv1": 1.147,
    "backbone.stage4.0.branches.3.1.conv2": 0.5932,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.0913,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.3238,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.1908,
    "head.final_layer": 0.07013,
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
