"""The headline on JHMDB Sub3."""

_base_ = "skip_hrnet_w32.py"

train_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub3_train.json")))
val_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub3_test.json")))
test_dataloader = val_dataloader
