"""The mathematics of Skip-Convolutions as functions with explicit state.

``reference`` is the plain formula, ``clip`` the form that is parallel in time, ``step`` the form
for streams; all three give the same result.
"""

from skippose.ops.clip import skip_conv_clip
from skippose.ops.contract import (
    REFERENCES,
    GatedConvolution,
    GateRule,
    Reference,
    SkipResult,
    SkipState,
)
from skippose.ops.geometry import ConvGeometry, Convolution
from skippose.ops.masks import block_for_map
from skippose.ops.reference import skip_conv_loop
from skippose.ops.step import empty_state, skip_conv_step, step_score

__all__ = [
    "REFERENCES",
    "ConvGeometry",
    "Convolution",
    "GateRule",
    "GatedConvolution",
    "Reference",
    "SkipResult",
    "SkipState",
    "block_for_map",
    "empty_state",
    "skip_conv_clip",
    "skip_conv_loop",
    "skip_conv_step",
    "step_score",
]
