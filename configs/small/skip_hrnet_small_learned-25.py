"""Calibrated thresholds (global).

    python tools/calibrate.py configs/small/skip_hrnet_small_learned-norm.py \\
        work_dirs/learned_gates/learned-thresholds_0.25/iter_200.pth --global --target-gmacs \\
        0.04825 --clips 40 --frames 24 --out configs/small/skip_hrnet_small_learned-25.py

On 40 training clips (940 frames): 0.04912 GMACs per frame after
a clip's first (dense 0.193), heat map error 7.95% of a frozen first frame's.
Checkpoint: SHA-256 b731151c21f4b62d...
"""

_base_ = "skip_hrnet_small_learned-norm.py"

thresholds = {
    "backbone.conv1": 0.1935,
    "backbone.conv2": 0.2182,
    "backbone.layer1.0.conv1": 0.2145,
    "backbone.layer1.0.conv2": 0.1806,
    "backbone.layer1.0.conv3": 0.1742,
    "backbone.layer1.1.conv1": 0.1714,
    "backbone.layer1.1.conv2": 0.1711,
    "backbone.layer1.1.conv3": 0.1684,
    "backbone.transition1.0.0": 0.197,
    "backbone.transition1.1.0.0": 0.1723,
    "backbone.stage2.0.branches.0.0.conv1": 0.1886,
    "backbone.stage2.0.branches.0.0.conv2": 0.1844,
    "backbone.stage2.0.branches.0.1.conv1": 0.1964,
    "backbone.stage2.0.branches.0.1.conv2": 0.1907,
    "backbone.stage2.0.branches.1.0.conv1": 0.1665,
    "backbone.stage2.0.branches.1.0.conv2": 0.1615,
    "backbone.stage2.0.branches.1.1.conv1": 0.1894,
    "backbone.stage2.0.branches.1.1.conv2": 0.1748,
    "backbone.stage2.0.fuse_layers.0.1.0": 0.1223,
    "backbone.stage2.0.fuse_layers.1.0.0.0": 0.1515,
    "backbone.transition2.2.0.0": 0.1774,
    "backbone.stage3.0.branches.0.0.conv1": 0.2162,
    "backbone.stage3.0.branches.0.0.conv2": 0.2146,
    "backbone.stage3.0.branches.0.1.conv1": 0.2056,
    "backbone.stage3.0.branches.0.1.conv2": 0.2104,
    "backbone.stage3.0.branches.1.0.conv1": 0.1817,
    "backbone.stage3.0.branches.1.0.conv2": 0.1846,
    "backbone.stage3.0.branches.1.1.conv1": 0.176,
    "backbone.stage3.0.branches.1.1.conv2": 0.1861,
    "backbone.stage3.0.branches.2.0.conv1": 0.2216,
    "backbone.stage3.0.branches.2.0.conv2": 0.2226,
    "backbone.stage3.0.branches.2.1.conv1": 0.1923,
    "backbone.stage3.0.branches.2.1.conv2": 0.1806,
    "backbone.stage3.0.fuse_layers.0.1.0": 0.1235,
    "backbone.stage3.0.fuse_layers.0.2.0": 0.117,
    "backbone.stage3.0.fuse_layers.1.0.0.0": 0.1882,
    "backbone.stage3.0.fuse_layers.1.2.0": 0.1543,
    "backbone.stage3.0.fuse_layers.2.0.0.0": 0.2077,
    "backbone.stage3.0.fuse_layers.2.0.1.0": 0.2153,
    "backbone.stage3.0.fuse_layers.2.1.0.0": 0.1996,
    "backbone.stage3.1.branches.0.0.conv1": 0.2174,
    "backbone.stage3.1.branches.0.0.conv2": 0.2219,
    "backbone.stage3.1.branches.0.1.conv1": 0.2255,
    "backbone.stage3.1.branches.0.1.conv2": 0.2247,
    "backbone.stage3.1.branches.1.0.conv1": 0.1875,
    "backbone.stage3.1.branches.1.0.conv2": 0.1966,
    "backbone.stage3.1.branches.1.1.conv1": 0.1864,
    "backbone.stage3.1.branches.1.1.conv2": 0.19,
    "backbone.stage3.1.branches.2.0.conv1": 0.2047,
    "backbone.stage3.1.branches.2.0.conv2": 0.2046,
    "backbone.stage3.1.branches.2.1.conv1": 0.2202,
    "backbone.stage3.1.branches.2.1.conv2": 0.1901,
    "backbone.stage3.1.fuse_layers.0.1.0": 0.1428,
    "backbone.stage3.1.fuse_layers.0.2.0": 0.1631,
    "backbone.stage3.1.fuse_layers.1.0.0.0": 0.2164,
    "backbone.stage3.1.fuse_layers.1.2.0": 0.1429,
    "backbone.stage3.1.fuse_layers.2.0.0.0": 0.2353,
    "backbone.stage3.1.fuse_layers.2.0.1.0": 0.2113,
    "backbone.stage3.1.fuse_layers.2.1.0.0": 0.216,
    "backbone.transition3.3.0.0": 0.2343,
    "backbone.stage4.0.branches.0.0.conv1": 0.2266,
    "backbone.stage4.0.branches.0.0.conv2": 0.2058,
    "backbone.stage4.0.branches.0.1.conv1": 0.2273,
    "backbone.stage4.0.branches.0.1.conv2": 0.1946,
    "backbone.stage4.0.branches.1.0.conv1": 0.2039,
    "backbone.stage4.0.branches.1.0.conv2": 0.2108,
    "backbone.stage4.0.branches.1.1.conv1": 0.2088,
    "backbone.stage4.0.branches.1.1.conv2": 0.2147,
    "backbone.stage4.0.branches.2.0.conv1": 0.2064,
    "backbone.stage4.0.branches.2.0.conv2": 0.1865,
    "backbone.stage4.0.branches.2.1.conv1": 0.2058,
    "backbone.stage4.0.branches.2.1.conv2": 0.1877,
    "backbone.stage4.0.branches.3.0.conv1": 0.2342,
    "backbone.stage4.0.branches.3.0.conv2": 0.2353,
    "backbone.stage4.0.branches.3.1.conv1": 0.2432,
    "backbone.stage4.0.branches.3.1.conv2": 0.2391,
    "backbone.stage4.0.fuse_layers.0.1.0": 0.1236,
    "backbone.stage4.0.fuse_layers.0.2.0": 0.1571,
    "backbone.stage4.0.fuse_layers.0.3.0": 0.1742,
    "head.final_layer": 0.09807,
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
