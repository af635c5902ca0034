# HRNet-W32 with every convolution gated, the head's too.
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
        # Recompute a 4x4 block of the stride-4 maps (2x2, 1x1 below) once its input has changed by
        # a fifth of its own magnitude since the block was last computed.
        gate=dict(type="InputNormGate", eps=0.2, scale="relative", block=4, block_mode="scaled"),
        reference="hold",
        in_channels=3,
        extra=dict(
            stage1=dict(
                num_modules=1,
                num_branches=1,
                block="BOTTLENECK",
                num_blocks=(4,),
                num_channels=(64,),
            ),
            stage2=dict(
                num_modules=1,
                num_branches=2,
                block="BASIC",
                num_blocks=(4, 4),
                num_channels=(32, 64),
            ),
            stage3=dict(
                num_modules=4,
                num_branches=3,
                block="BASIC",
                num_blocks=(4, 4, 4),
                num_channels=(32, 64, 128),
            ),
            stage4=dict(
                num_modules=3,
                num_branches=4,
                block="BASIC",
                num_blocks=(4, 4, 4, 4),
                num_channels=(32, 64, 128, 256),
            ),
        ),
    ),
    head=dict(
        type="HeatmapHead",
        in_channels=32,
        out_channels=15,
        deconv_out_channels=None,
        loss=dict(type="KeypointMSELoss", use_target_weight=True),
        # The data set's `codec`.
        decoder=dict(type="MSRAHeatmap", input_size=(256, 256), heatmap_size=(64, 64), sigma=2),
    ),
    test_cfg=dict(mode="clip", flip_test=False, flip_mode="heatmap", shift_heatmap=False),
)
# mmpose's HRNet-W32 for COCO. Its last layer has 17 joints and is left out with a warning.
# `--cfg-options load_from=None` trains from scratch.
load_from = (
    "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco/"
    "td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth"
)
