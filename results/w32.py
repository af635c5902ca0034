"""Rows of HRNet-W32: one threshold, both policies, whole maps and blocks."""

EPS = "model.backbone.gate.eps"
BLOCK = "model.backbone.gate.block"

variants = {
    **{f"hold, block 4/{eps}": {EPS: eps} for eps in (0.1, 0.2, 0.3, 0.4, 0.5)},
    **{f"hold/{eps}": {EPS: eps, BLOCK: 1} for eps in (0.1, 0.2, 0.3, 0.4)},
    **{
        f"previous/{eps}": {EPS: eps, BLOCK: 1, "model.backbone.reference": "previous"}
        for eps in (0.05, 0.1, 0.2)
    },
}
