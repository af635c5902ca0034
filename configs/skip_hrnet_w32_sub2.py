"""The headline on JHMDB Sub2."""

_base_ = "skip_hrnet_w32.py"

train_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub2_train.json")))
val_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub2_test.json")))
test_dataloader = val_dataloader
