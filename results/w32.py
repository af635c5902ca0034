"""Rows of HRNet-W32: one relative threshold and blocks of 4x4, as in configs/skip_hrnet_w32.py."""

EPS = "model.backbone.gate.eps"

variants = {f"hold, block 4/{eps}": {EPS: eps} for eps in (0.1, 0.15, 0.2, 0.3, 0.4)}
