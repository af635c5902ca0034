"""The portable engine where asking the device costs more than computing: on GPUs.

Every convolution runs in full and its gate selects, so that no layer waits for the host; what it
saves is the host's time between launches, and not arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from skippose.ops.masks import expand_blocks
from skippose.ops.schedule import Schedule
from skippose.report import Report
from skippose.runtime.backends import Engine, check_layers, gated_layers, kind_of
from skippose.runtime.capture import capture
from skippose.runtime.functional import GatedFrame, PlanStep
from skippose.runtime.plan import Conv

FORM = "functional"


class FunctionalEngine(Engine):
    """See the module. A failure in the middle of a frame changes nothing."""

    name = "torch"

    @torch.inference_mode()
    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        self.net = net
        self.plan = capture(net, frame)
        self._step = PlanStep(self.plan, schedule).eval()
        self._state = self._step.initial_state(frame.shape[0])
        exact, device = torch.float64, self.plan.device
        # (gated layers, 2): densities, and shares of outputs looked at, over counted frames.
        self._sums = torch.zeros((len(self.plan.gated), 2), dtype=exact, device=device)
        self._frames = torch.zeros(2, dtype=exact, device=device)  # counted, and first ones

    @torch.inference_mode()
    def step(self, frame: Tensor) -> Any:
        age = self._state[0]
        counted = (age > 0).to(torch.float64)
        output, state, seen = self._step.run(frame, self._state)
        rows = []
        for i, op in enumerate(self.plan.ops):
            if isinstance(op, Conv) and op.gated is not None:
                # At a cut the first gate has looked, and no other.
                due = self._step.schedule.due(age) if i == self.plan.decider else seen[i].dense
                shares = self._shares(op, seen[i], due)
                rows.append(torch.stack([(share * counted).sum() for share in shares]))
        first = (1 - counted).sum()
        # Everything went through.
        if rows:
            self._sums += torch.stack(rows)
        self._frames += torch.stack([counted.sum(), first])
        self._state = state
        return output

    @staticmethod
    def _shares(op: Conv, seen: GatedFrame, due: Tensor) -> tuple[Tensor, Tensor]:
        """(S,) shares of outputs computed, and of those that the gate looked at, ``due`` apart."""
        opened = expand_blocks(seen.gate, op.block, (seen.z.shape[-2], seen.z.shape[-1]))
        density = opened.to(torch.float64).mean((1, 2, 3))
        if seen.changed is None:
            return density, torch.zeros_like(density)
        looked = seen.changed.to(torch.float64).mean((1, 2, 3))
        return density, torch.where(due, 0.0, looked)

    @torch.inference_mode()
    def forget(self, slots: Sequence[int]) -> None:
        age = self._state[0].clone()
        age[list(slots)] = 0
        self._state = (age, self._state[1])

    def report(self) -> Report:
        frames, first = (int(n) for n in self._frames.tolist())
        rows = [replace(row, density_sum=float(frames)) for row in self.plan.costs]
        for op, (density, looked) in zip(self.plan.gated, self._sums.tolist(), strict=True):
            if op.cost is not None:
                rows[op.cost] = replace(rows[op.cost], density_sum=density, gate_density_sum=looked)
        return Report(tuple(rows), frames, first)

    def state_dict(self) -> dict[str, Any]:
        age, layers = self._state
        return {
            "form": FORM,
            "age": age.cpu().clone(),
            "gates": {name: kind_of(layer) for name, layer in gated_layers(self.net).items()},
            "layers": {
                key: {name: tensor.clone() for name, tensor in fields.items()}
                for key, fields in layers.items()
            },
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("form") != FORM:
            raise ValueError(
                "the state was made on a CPU, where backend 'torch' holds blocks; on this device "
                "it does not go on: begin anew, or move the stream with backend='eager'"
            )
        check_layers(self.net, state, self.plan.calls)
        age, layers = self._state
        loaded = {}
        for key, fields in layers.items():
            saved = state["layers"].get(key, {})
            for name, tensor in fields.items():
                if name not in saved or saved[name].shape != tensor.shape:
                    raise ValueError(
                        f"the state of layer {key!r} has no {name!r} of {tuple(tensor.shape)}"
                    )
            loaded[key] = {
                name: saved[name].to(tensor.device, copy=True) for name, tensor in fields.items()
            }
        self._state = (state["age"].to(age.device, copy=True), loaded)
