"""A plan as a function ``(frame, state) -> (output, state)``, without a branch on what it sees.

Every convolution runs in full and its gate selects: this is the step form on a plan, for
``torch.export`` and for devices on which asking how many gates are open would cost more than it
saves. Nothing waits for the device.
"""

from __future__ import annotations

from typing import Any

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
        output, after, _ = self.run(frame, state)
        return output, after

    def run(
        self, frame: Tensor, state: tuple[Tensor, State]
    ) -> tuple[Any, tuple[Tensor, State], dict[int, SkipResult]]:
        """The same, with what happened in each gated convolution, by the value that it writes."""
        plan, (age, layers) = self.plan, state
        dense = self.schedule.due(age)
        values: dict[int, Tensor] = {0: frame}
        after: State = {}
        seen: dict[int, SkipResult] = {}
        gated = {op.output: op for op in plan.gated}
        for i, op in enumerate(plan.ops):
            inputs = [values[v] for v in op.inputs]
            conv = gated.get(op.output)
            if conv is None:
                values[op.output] = op.apply(inputs, plan.values[op.output])
                continue
            assert conv.gated is not None
            cut = self.schedule.cut if i == plan.decider else None
            x, before = inputs[0], SkipState(**layers[str(conv.key)])
            weights = conv.convolution(x.dtype)
            result = skip_conv_step(x, conv.gated, before, dense, cut, weights)
            assert result.state is not None
            if cut is not None:
                age = torch.where(result.dense & ~dense, 0, age)
                dense = result.dense
            seen[conv.output], after[str(conv.key)] = result, _fields(result.state)
            values[conv.output] = conv.activation(conv.finish(result.z, inputs[1:]))
        outputs = [plan.values[v].as_output(values[v]).clone() for v in plan.outputs]
        return pytree.tree_unflatten(outputs, plan.tree), (age + 1, after), seen


def _fields(state: SkipState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in vars(state).items() if tensor is not None}
