"""The whole-map backend: where asking the device costs more than computing: on GPUs.

Every convolution runs in full and its gate selects, so that no layer waits for the host: that
saves no arithmetic. On CUDA devices a frame is one graph, launched as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skippose.backends.base import (
    Backend,
    check_layers,
    copy_saved,
    gated_layers,
    kind_of,
)
from skippose.backends.torch_maps.recorded_step import RecordedStep
from skippose.backends.torch_maps.step import PlanStep, State
from skippose.ops import SkipResult
from skippose.ops.masks import expand_blocks
from skippose.ops.schedule import Schedule
from skippose.plan.capture import capture
from skippose.plan.errors import BackendError
from skippose.plan.operators.conv import Conv
from skippose.report import Report

FORM = "functional"


class Held(NamedTuple):
    """What a backend carries from frame to frame.

    Attributes:
        age: (S,) frames since each slot began.
        layers: by layer, what it holds.
        sums: (gated layers, 2) over counted frames: densities, and shares of outputs looked at.
        frames: (2,) frames counted, and first ones.
    """

    age: Tensor
    layers: State
    sums: Tensor
    frames: Tensor


class MapsBackend(Backend):
    """See the module. A failure in the middle of a frame changes nothing."""

    name = "torch"

    @torch.inference_mode()
    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        self.net = net
        self.plan = capture(net, frame)
        self._step = PlanStep(self.plan, schedule).eval()
        age, layers = self._step.initial_state(frame.shape[0])
        exact, device = torch.float64, self.plan.device
        sums = torch.zeros((len(self.plan.gated), 2), dtype=exact, device=device)
        self._held = Held(age, layers, sums, torch.zeros(2, dtype=exact, device=device))
        self._recorded: RecordedStep | None = None
        if frame.is_cuda:
            try:
                self._recorded = RecordedStep(self._advance, frame, self._held)
            except RuntimeError as error:
                raise BackendError(
                    f"the network cannot be recorded as a CUDA graph (does a gate of your own wait "
                    f"for the device?): {error}"
                ) from error

    @torch.inference_mode()
    def step(self, frame: Tensor) -> Any:
        if self._recorded is not None:
            return self._recorded(frame)
        output, self._held = self._advance(frame, self._held)
        return output

    def _advance(self, frame: Tensor, held: Held) -> tuple[Any, Held]:
        """A frame and what was held before it to the output and what is held after it."""
        counted = (held.age > 0).to(torch.float64)
        output, (age, layers), seen = self._step.run(frame, (held.age, held.layers))
        rows = []
        decider = None if self.plan.decider is None else self.plan.ops[self.plan.decider]
        for op in self.plan.gated:
            frame_seen = seen[op.output]
            # At a cut the first gate has looked, and no other.
            due = self._step.schedule.due(held.age) if op is decider else frame_seen.dense
            shares = self._shares(op, frame_seen, due)
            rows.append(torch.stack([(share * counted).sum() for share in shares]))
        sums = held.sums + torch.stack(rows) if rows else held.sums
        frames = held.frames + torch.stack([counted.sum(), (1 - counted).sum()])
        return output, Held(age, layers, sums, frames)

    @staticmethod
    def _shares(op: Conv, seen: SkipResult, due: Tensor) -> tuple[Tensor, Tensor]:
        """(S,) shares of outputs computed, and of those that the gate looked at, ``due`` apart."""
        opened = expand_blocks(seen.gate, op.block, (seen.z.shape[-2], seen.z.shape[-1]))
        density = opened.to(torch.float64).mean((1, 2, 3))
        if seen.changed is None:
            return density, torch.zeros_like(density)
        looked = seen.changed.to(torch.float64).mean((1, 2, 3))
        return density, torch.where(due, 0.0, looked)

    @torch.inference_mode()
    def forget(self, slots: Sequence[int]) -> None:
        self._held.age[list(slots)] = 0

    def report(self) -> Report:
        frames, first = (int(n) for n in self._held.frames.tolist())
        rows = [replace(row, density_sum=float(frames)) for row in self.plan.costs]
        for op, (density, looked) in zip(self.plan.gated, self._held.sums.tolist(), strict=True):
            if op.cost is not None:
                rows[op.cost] = replace(rows[op.cost], density_sum=density, gate_density_sum=looked)
        return Report(tuple(rows), frames, first)

    def state_dict(self) -> dict[str, Any]:
        return {
            "form": FORM,
            "age": self._held.age.cpu().clone(),
            "gates": {name: kind_of(layer) for name, layer in gated_layers(self.net).items()},
            "layers": {
                key: {name: tensor.clone() for name, tensor in fields.items()}
                for key, fields in self._held.layers.items()
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
        pairs = [(state["age"], self._held.age)]
        for key, fields in self._held.layers.items():
            saved = state["layers"].get(key, {})
            pairs += [(saved.get(name), mine) for name, mine in fields.items()]
        copy_saved(pairs)
