# Synthetic clips in JHMDB's layout:
# python tools/dataset_converters/synthetic.py --out data/synthetic
_base_ = ["jhmdb_clips_128.py"]

data_root = "{{$SKIPPOSE_SYNTHETIC:data/synthetic}}"
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
test_dataloader = val_dataloader
