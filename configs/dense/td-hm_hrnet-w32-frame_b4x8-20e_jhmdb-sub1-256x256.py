"""The dense baseline with a crop of its own for each frame, as mmpose has it; same test frames."""

_base_ = "td-hm_hrnet-w32-window_b4x8-20e_jhmdb-sub1-256x256.py"

train_dataloader = dict(dataset=dict(crop="frame"))
val_dataloader = dict(dataset=dict(crop="frame"))
test_dataloader = val_dataloader
