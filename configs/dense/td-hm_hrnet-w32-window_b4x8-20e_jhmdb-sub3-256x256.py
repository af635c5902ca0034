"""The dense twin on JHMDB Sub3."""

_base_ = "td-hm_hrnet-w32-window_b4x8-20e_jhmdb-sub1-256x256.py"

train_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub3_train.json")))
val_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub3_test.json")))
test_dataloader = val_dataloader
