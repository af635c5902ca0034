"""A plan as a function ``(frame, state) -> (output, state)``, without a branch on what it sees.

Every convolution runs in full and its gate selects: this is the step form on a plan, for
``torch.export`` and for devices on which asking how many gates are open would cost more than it
saves. Nothing waits for the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from skippose.ops import Convolution, SkipState
from skippose.ops import step as step_form
from skippose.ops.geometry import accumulation_dtype
from skippose.ops.masks import changed_outputs
from skippose.ops.schedule import Schedule
from skippose.plan.dense_ops import activate, apply, as_output, finish
from skippose.plan.plan import Conv, Plan

State = dict[str, dict[str, Tensor]]
"""By layer (``name#call``), the fields of :class:`skippose.ops.SkipState` that it needs."""


class GatedFrame(NamedTuple):
    """What happened in one gated convolution.

    Attributes:
        z: (S, O, H', W'), before affine, additions and activation.
        gate: (S, 1, Hb, Wb) bool.
        changed: (S, 1, H', W') bool; None for gates that need not know.
        dense: (S,) bool, slots computed in full, those cut here included.
        state: for the next frame.
    """

    z: Tensor
    gate: Tensor
    changed: Tensor | None
    dense: Tensor
    state: dict[str, Tensor]


def empty_state(plan: Plan, op: Conv, slots: int) -> dict[str, Tensor]:
    """The state of a convolution before a first frame: zeros that nothing depends on."""
    assert op.gated is not None
    layer, x, out = op.gated, plan.values[op.inputs[0]], plan.values[op.output]
    exact = accumulation_dtype(plan.dtype)
    frame = torch.zeros(
        (slots, x.channels, x.height, x.width), dtype=plan.dtype, device=plan.device
    )
    held = exact if layer.reference == "previous" else plan.dtype
    z = frame.new_zeros((slots, op.weight.shape[0], out.height, out.width), dtype=held)
    state = {"z": z}
    if layer.gate.measure(frame[:1], z[:1].to(exact)) is not None:
        state["scale"] = frame.new_zeros(slots, dtype=exact)
    if layer.reference == "previous" or layer.must_know_changed:
        state["x"] = frame
    if layer.reference == "hold" and layer.gate.source == "residual":
        if layer.gate.sees == "linear":
            state["linear"] = z.new_zeros((slots, 1, out.height, out.width), dtype=exact)
        elif layer.holds_patches:
            state["patches"] = layer.patches(frame).contiguous()
    return state


def gated_conv(
    x: Tensor, op: Conv, state: dict[str, Tensor], dense: Tensor, cut: float | None = None
) -> GatedFrame:
    """One gated convolution; :func:`skippose.ops.skip_conv_step` on a plan's weights.

    Args:
        x: (S, C, H, W).
        op: the convolution.
        state: from :func:`empty_state` or the frame before.
        dense: (S,) bool on the device of ``x``, slots to compute in full.
        cut: density above which a slot is computed in full after all.
    """
    assert op.gated is not None
    layer, gate, exact = op.gated, op.gated.gate, accumulation_dtype(x.dtype)
    size = layer.out_size(x)
    before = SkipState(**state)
    start = op.bias[:, None, None]

    def update(full: Tensor) -> Tensor:
        if change is None:
            return op.geometry.convolve(x, op.weight.to(x.dtype), op.bias.to(x.dtype))
        return Convolution(op.weight, None, op.geometry).update(torch.where(full, now, change))

    full = dense[:, None, None, None]
    change, now = None, x.to(exact)
    if layer.reference == "previous":
        assert before.x is not None
        change = now - before.x.to(exact)
    y = update(full)
    response = y.to(exact) - start if change is None else y
    opened = gate.decide(
        step_form._score(x, change, response, layer, size, before), before.scale
    ).bool()
    changed = None
    if layer.must_know_changed:
        assert before.x is not None
        changed = changed_outputs(x, before.x, layer.conv.geometry)
        opened = layer.close_unchanged(opened, changed).bool()
    if cut is not None:
        density = layer.expand(opened, size).to(exact).mean((1, 2, 3))
        dense = dense | (density > cut)
        full = dense[:, None, None, None]
        if change is not None:
            y = update(full)
            response = y
    opened = opened | full
    g = layer.expand(opened, size)
    if change is not None:
        z = torch.where(full, start.to(exact), before.z) + g * y.to(exact)
    else:
        z = torch.where(g, y, before.z)
    after = SkipState(z=z)
    if before.scale is not None:
        measured = gate.measure(x, response)
        assert measured is not None
        after.scale = torch.where(dense, measured, before.scale)
    if before.x is not None:
        after.x = x.clone()
    if layer.reference == "hold" and gate.source == "residual":
        step_form._hold_input(after, x, opened, g, layer, before)
    kept = {name: value for name, value in vars(after).items() if value is not None}
    return GatedFrame(z.to(x.dtype), opened, changed, dense, kept)


class PlanStep(nn.Module):
    """A plan as a module of ``(frame, state)``.

    Args:
        plan: a captured network.
        schedule: which frames are dense.
    """

    def __init__(self, plan: Plan, schedule: Schedule) -> None:
        super().__init__()
        self.plan, self.schedule = plan, schedule
        # So that exporting finds what gates learn, and calibrated magnitudes.
        self.gates = nn.ModuleList(op.gate for op in plan.gated if op.gate is not None)

    def initial_state(self, slots: int) -> tuple[Tensor, State]:
        """Before a first frame: (S,) ages, and the layers' states."""
        age = torch.zeros(slots, dtype=torch.long, device=self.plan.device)
        layers = {str(op.key): empty_state(self.plan, op, slots) for op in self.plan.gated}
        return age, layers

    def forward(
        self, frame: Tensor, state: tuple[Tensor, State]
    ) -> tuple[Any, tuple[Tensor, State]]:
        """(S, C, H, W) and the state before to the network's output and the state after."""
        output, after, _ = self.run(frame, state)
        return output, after

    def run(
        self, frame: Tensor, state: tuple[Tensor, State]
    ) -> tuple[Any, tuple[Tensor, State], dict[int, GatedFrame]]:
        """The same, with what happened in each gated convolution, by its index in the plan."""
        plan, (age, layers) = self.plan, state
        dense = self.schedule.due(age)
        values: dict[int, Tensor] = {0: frame}
        after: State = {}
        seen: dict[int, GatedFrame] = {}
        for i, op in enumerate(plan.ops):
            inputs = [values[v] for v in op.inputs]
            if isinstance(op, Conv) and op.gated is not None:
                cut = self.schedule.cut if i == plan.decider else None
                result = gated_conv(inputs[0], op, layers[str(op.key)], dense, cut)
                if cut is not None:
                    age = torch.where(result.dense & ~dense, 0, age)
                    dense = result.dense
                seen[i], after[str(op.key)] = result, result.state
                z = finish(result.z, op, inputs[1:])
                # Not into what is held.
                own = op.affine is not None or op.add
                values[op.output] = activate(z if own else z.clone(), op.activation)
            else:
                values[op.output] = apply(op, inputs, plan.values[op.output])
        outputs = [as_output(values[v], plan.values[v]).clone() for v in plan.outputs]
        return pytree.tree_unflatten(outputs, plan.tree), (age + 1, after), seen
