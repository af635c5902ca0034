"""A plan as a function ``(frame, state) -> (output, state)``, without a branch on what it sees.

Every convolution runs in full and its gate selects: this is the step form on a plan, for
``torch.export`` and for devices on which asking how many gates are open would cost more than it
saves. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from skippose.ops import SkipResult, SkipState, empty_state, skip_conv_step
from skippose.ops.schedule import Schedule
from skippose.plan.operators.conv import Conv
from skippose.plan.plan import Plan

State = dict[str, dict[str, Tensor]]
"""By layer (``name#call``), the fields of :class:`skippose.ops.SkipState` that it needs."""


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
        return age, {str(op.key): self._empty(op, slots) for op in self.plan.gated}

    def _empty(self, op: Conv, slots: int) -> dict[str, Tensor]:
        assert op.gated is not None
        plan, value = self.plan, self.plan.values[op.inputs[0]]
        shape = (slots, value.channels, value.height, value.width)
        x = torch.zeros(shape, dtype=plan.dtype, device=plan.device)
        return _fields(empty_state(op.gated, x, plan.dtype))

    def forward(
        self, frame: Tensor, state: tuple[Tensor, State]
    ) -> tuple[Any, tuple[Tensor, State]]:
        """(S, C, H, W) and the state before to the network's output and the state after."""
        age, layers = state
        made = self.run(frame, age, layers)
        outputs = [self.plan.values[v].as_output(made.outputs[v]) for v in self.plan.outputs]
        outputs = [output.clone() for output in outputs]
        if made.begun is not None:
            age = torch.where(made.begun, 0, age)
        return pytree.tree_unflatten(outputs, self.plan.tree), (age + 1, made.layers)

    def run(
        self,
        frame: Tensor,
        age: Tensor,
        layers: State,
        imposed: Mapping[str, Tensor] | None = None,
    ) -> Made:
        """The same, with what happened in each gated convolution.

        Args:
            frame: (S, C, H, W).
            age: (S,), frames since each slot began.
            layers: the state before.
            imposed: masks in the place of gates' decisions, (S, 1, Hb, Wb) bool by layer.
        """
        plan, imposed = self.plan, imposed or {}
        due = dense = self.schedule.due(age)
        begun: Tensor | None = None
        values: dict[int, Tensor] = {0: frame}
        after: State = {}
        seen: dict[str, SkipResult] = {}
        gated = {op.output: op for op in plan.gated}
        for i, op in enumerate(plan.ops):
            inputs = [values[v] for v in op.inputs]
            conv = gated.get(op.output)
            if conv is None:
                values[op.output] = op.apply(inputs, plan.values[op.output])
                continue
            assert conv.gated is not None
            cut = self.schedule.cut if i == plan.decider else None
            x, key = inputs[0], str(conv.key)
            before, weights = SkipState(**layers[key]), conv.convolution(x.dtype)
            mask = imposed.get(key)
            result = skip_conv_step(x, conv.gated, before, dense, cut, weights, mask)
            assert result.state is not None
            if cut is not None:
                dense = result.dense
                begun = dense & ~due
            seen[key], after[key] = result, _fields(result.state)
            values[conv.output] = conv.activation(conv.finish(result.z, inputs[1:]))
        return Made({v: values[v] for v in plan.outputs}, after, seen, due, begun)


class Made(NamedTuple):
    """One frame.

    Attributes:
        outputs: of the network, by value.
        layers: the state after.
        seen: what happened in each gated convolution, in the order of the plan.
        due: (S,) bool, slots that were to be computed in full.
        begun: (S,) bool, slots that were not, and that a cut began anew; None without cuts.
    """

    outputs: dict[int, Tensor]
    layers: State
    seen: dict[str, SkipResult]
    due: Tensor
    begun: Tensor | None


def _fields(state: SkipState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in vars(state).items() if tensor is not None}
