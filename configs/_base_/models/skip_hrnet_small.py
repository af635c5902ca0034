# A small HRNet that a CPU can train: 1.5 M parameters, 0.19 GMAC at 128x128, every convolution
# gated. Its parts are those of HRNet-W32 with fewer blocks and channels.
_base_ = ["skip_hrnet_w32.py"]

model = dict(
    backbone=dict(
        gate=dict(block=1),
        extra=dict(
            stage1=dict(num_blocks=(2,), num_channels=(16,)),
            stage2=dict(num_blocks=(2, 2), num_channels=(16, 32)),
            stage3=dict(num_modules=2, num_blocks=(2, 2, 2), num_channels=(16, 32, 64)),
            stage4=dict(num_modules=1, num_blocks=(2, 2, 2, 2), num_channels=(16, 32, 64, 128)),
        ),
        # The default, a normal distribution of 0.001, takes a small network long to leave.
        init_cfg=[
            dict(type="Kaiming", layer="Conv2d", nonlinearity="relu"),
            dict(type="Constant", layer="BatchNorm2d", val=1),
        ],
    ),
    head=dict(
        in_channels=16,
        # The data set's `codec`.
        decoder=dict(input_size=(128, 128), heatmap_size=(32, 32), sigma=1.5),
    ),
)
load_from = None
