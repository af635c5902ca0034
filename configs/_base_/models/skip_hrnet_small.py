# A small HRNet that a CPU can train: 1.5 M parameters, 0.19 GMAC at 128x128, every convolution
# gated. Its parts are those of HRNet-W32 with fewer blocks and channels.
model = dict(
    type="SkipTopdownPoseEstimator",
    data_preprocessor=dict(
        type="ClipPoseDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type="SkipHRNet",
        gate=dict(type="InputNormGate", eps=0.2, scale="relative", block=1),
        reference="hold",
        in_channels=3,
        extra=dict(
            stage1=dict(
                num_modules=1,
                num_branches=1,
                block="BOTTLENECK",
                num_blocks=(2,),
                num_channels=(16,),
            ),
            stage2=dict(
                num_modules=1,
                num_branches=2,
                block="BASIC",
                num_blocks=(2, 2),
                num_channels=(16, 32),
            ),
            stage3=dict(
                num_modules=2,
                num_branches=3,
                block="BASIC",
                num_blocks=(2, 2, 2),
                num_channels=(16, 32, 64),
            ),
            stage4=dict(
                num_modules=1,
                num_branches=4,
                block="BASIC",
                num_blocks=(2, 2, 2, 2),
                num_channels=(16, 32, 64, 128),
            ),
        ),
        # The default, a normal distribution of 0.001, takes a small network long to leave.
        init_cfg=[
            dict(type="Kaiming", layer="Conv2d", nonlinearity="relu"),
            dict(type="Constant", layer="BatchNorm2d", val=1),
        ],
    ),
    head=dict(
        type="HeatmapHead",
        in_channels=16,
        out_channels=15,
        deconv_out_channels=None,
        loss=dict(type="KeypointMSELoss", use_target_weight=True),
        # The data set's `codec`.
        decoder=dict(type="MSRAHeatmap", input_size=(128, 128), heatmap_size=(32, 32), sigma=1.5),
    ),
    test_cfg=dict(mode="clip", flip_test=False, flip_mode="heatmap", shift_heatmap=False),
)
