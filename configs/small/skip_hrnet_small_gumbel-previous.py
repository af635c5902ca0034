"""Gumbel gates under the paper's policy, `previous`; as the authors' code, they look at |r|."""

_base_ = ["skip_hrnet_small_gumbel.py"]

model = dict(
    backbone=dict(reference="previous", gate=dict(threshold=0.07)),
    gate_loss=dict(target=0.2),
)
