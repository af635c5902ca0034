"""The paper's norm gates on JHMDB Sub2."""

_base_ = "td-hm_skip-hrnet-w32-norm_b4x8-20e_jhmdb-sub1-256x256.py"

train_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub2_train.json")))
val_dataloader = dict(dataset=dict(dataset=dict(ann_file="annotations/Sub2_test.json")))
test_dataloader = val_dataloader
