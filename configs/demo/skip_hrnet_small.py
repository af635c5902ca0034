"""The demo: a small Skip-HRNet on synthetic clips, fine-tuned through its gates (`make demo`).

    python tools/dataset_converters/synthetic.py --out data/synthetic
    python tools/train.py configs/demo/skip_hrnet_small.py

It starts from a dense checkpoint that comes with the repository; pretrain_hrnet_small.py beside it
says how that was trained, on other clips.
"""

_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/synthetic_clips.py",
    "../_base_/models/skip_hrnet_small.py",
]

model = dict(backbone=dict(gate=dict(train_gates=True)))
load_from = "configs/demo/hrnet_small_synthetic.pth"

max_epochs = 1
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict(type="ClipTestLoop")
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4))
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        begin=0,
        end=max_epochs,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=10))
auto_scale_lr = dict(base_batch_size=4)
