"""A convolution's gate as the library takes it."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

from skippose.backends.native.library import GateKind
from skippose.backends.native.lowered import Lowered
from skippose.ops.gate_spec import SCALE_FLOOR, InputNorm, Linear, OutputNorm
from skippose.plan.errors import BackendError
from skippose.plan.operators.conv import Conv


def lower_gate(op: Conv, d: Any, made: Lowered) -> None:
    """Writes the gate of a gated convolution into its structure; only its spec is read.

    Args:
        op: the convolution, which has a gate.
        d: its structure, of which the gate's fields are written.
        made: keeps the arrays that the structure points into.

    Raises:
        BackendError: for a gate that the library does not have, named.
    """
    assert op.gated is not None
    spec = op.spec
    if spec is None:
        raise BackendError(
            f"layer {op.key}: {op.gated.gate_name} states no spec, and the native "
            "backend cannot call a gate's own methods"
        )
    d.block_h, d.block_w = op.block
    d.previous, d.frame_source = op.reference == "previous", spec.change == "none"
    threshold = spec.threshold
    d.relative = threshold.relative_to is not None
    d.scale_of_output = threshold.relative_to == "output"
    calibrated = 0.0 if threshold.calibrated is None else float(threshold.calibrated)
    d.magnitude = max(calibrated, SCALE_FLOOR) if calibrated > 0 else 0.0
    try:
        spec.score.lower(_Scores(d, made, float(threshold.value)))
    except NotImplementedError as error:
        raise BackendError(f"layer {op.key}: the native backend has no {error}") from error


class _Scores:
    """Writes a score of each kind, and the threshold in the form that its kernel takes."""

    def __init__(self, d: Any, made: Lowered, threshold: float) -> None:
        self.d, self.made, self.threshold = d, made, threshold

    def input_norm(self, score: InputNorm) -> None:
        self._norm(score, GateKind.input_norm)
        self.d.gain = 1.0 if score.gain is None else float(score.gain)

    def output_norm(self, score: OutputNorm) -> None:
        self._norm(score, GateKind.output)

    def linear(self, score: Linear) -> None:
        self.d.gate, self.d.rectify = GateKind.linear, score.rectify
        self.d.gate_bias = -self.threshold
        self.made.write(phi=score.weight)

    def _norm(self, score: InputNorm | OutputNorm, kind: IntEnum) -> None:
        self.d.gate, self.d.eps = kind, self.threshold
        self.d.p = 0 if math.isinf(score.p) else int(score.p)
        self.d.normalize = score.normalize
