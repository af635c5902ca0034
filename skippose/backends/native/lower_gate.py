"""A convolution's gate as the library takes it."""

from __future__ import annotations

import math

from skippose.backends.native.described import Described
from skippose.backends.native.library import GateKind, SkpConv
from skippose.gates import ExactNormGate, GumbelGate
from skippose.gates.norm import SCALE_FLOOR, NormGate
from skippose.plan.errors import BackendError
from skippose.plan.plan import Conv


def lower_gate(op: Conv, d: SkpConv, made: Described) -> None:
    """Writes the gate of a gated convolution into its structure.

    Args:
        op: the convolution, which has a gate.
        d: its structure, of which the gate's fields are written.
        made: keeps the arrays that the structure points into.

    Raises:
        BackendError: for a gate that the library does not have, named.
    """
    assert op.gated is not None
    gate = op.gated.gate
    d.block_h, d.block_w = op.block
    d.previous, d.frame_source = op.reference == "previous", gate.source == "frame"
    if isinstance(gate, GumbelGate):
        if op.gated.holds_patches:
            raise BackendError(
                f"layer {op.key}: the native engine has no rectified Gumbel gate under 'hold'"
            )
        d.gate, d.rectify = GateKind.linear, gate.rectify
        d.phi, d.gate_bias = made.floats(gate.weight), float(gate.bias)
        return
    assert isinstance(gate, NormGate)
    d.gate = GateKind.output if isinstance(gate, ExactNormGate) else GateKind.input_norm
    d.p = 0 if math.isinf(gate.p) else int(gate.p)
    d.normalize, d.eps, d.gain = gate.normalize, gate.eps, op.gain
    d.relative, d.scale_of_output = gate.scale == "relative", gate.relative_to == "output"
    calibrated = float(gate.magnitude)
    d.magnitude = max(calibrated, SCALE_FLOOR) if calibrated > 0 else 0.0
