"""HRNet-W32 whose training was cut short: the learning rate falls to zero within one epoch.

    python tools/train.py configs/scratch/skip_hrnet_w32_scratch_anneal.py

A training by skip_hrnet_w32_scratch.py ended after 20 of its 38 epochs, at a learning rate of
4.5e-4. This goes on from there, and is short enough for a CPU: three quarters of an hour on one
core with AVX512-BF16.
"""

_base_ = ["skip_hrnet_w32_scratch.py"]

load_from = "work_dirs/skip_hrnet_w32_scratch/epoch_20.pth"
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
)
max_iters = 300
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [
    dict(type="LinearLR", begin=0, end=10, start_factor=0.1, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=0, end=max_iters, eta_min=0.0, by_epoch=False),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=1)
)
log_processor = dict(by_epoch=False, window_size=10)
auto_scale_lr = dict(base_batch_size=16)
