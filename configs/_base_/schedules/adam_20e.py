# mmpose's schedule for JHMDB (Adam, 20 epochs, steps at 8 and 15) at a learning rate for 4 clips of
# 8 frames an iteration. The paper fine-tunes with Adam too; the numbers here are ours.
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
# Counts frames, also with --dump: see skippose/evaluation/clip_evaluator.py.
test_cfg = dict(type="ClipTestLoop")

optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-4))
param_scheduler = [
    dict(type="LinearLR", begin=0, end=200, start_factor=0.001, by_epoch=False),  # warm-up
    dict(type="MultiStepLR", begin=0, end=20, milestones=[8, 15], gamma=0.1, by_epoch=True),
]
# For --auto-scale-lr. In clips, the items of the data set.
auto_scale_lr = dict(base_batch_size=4)
