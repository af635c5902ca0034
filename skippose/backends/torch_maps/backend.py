"""The whole-map backend: where asking the device costs more than computing, as on GPUs.

Every convolution runs in full and its gate selects, so that no layer waits for the host: that
saves no arithmetic. On CUDA devices a frame is one graph, launched as a whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skippose.backends.masks import Imposed, blocks_of
from skippose.backends.plan_backend import Counts, PlanBackend, owned
from skippose.backends.torch_maps.recorded_step import RecordedStep
from skippose.backends.torch_maps.step import Made, PlanStep, State
from skippose.ops.masks import expand_blocks
from skippose.ops.schedule import Schedule
from skippose.plan.errors import BackendError


class Held(NamedTuple):
    """What is carried from frame to frame.

    Attributes:
        counts: ages and costs.
        layers: by layer, what it holds.
    """

    counts: Counts
    layers: State


class Seen(NamedTuple):
    """What a frame gives beside that; on CUDA devices the next frame is written there.

    Attributes:
        outputs: of the network, by value.
        masks: (S, 1, Hb, Wb) by layer, above a half where a block was computed.
    """

    outputs: dict[int, Tensor]
    masks: dict[str, Tensor]


class MapsBackend(PlanBackend):
    """See the module. A failure in the middle of a frame changes nothing.

    Masks can be imposed at any time. On a CUDA device those of another set of layers than before
    take a recording of their own; the same layers' masks are written where the last ones were.
    """

    name = "torch"
    form = "functional"
    foreign_state = (
        "the state was made on a CPU, where backend 'torch' holds blocks; on this device it does "
        "not go on: begin anew, or move the stream with backend='eager'"
    )

    @torch.inference_mode()
    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        super().__init__(net, frame, schedule, **options)
        self._step = PlanStep(self.plan, schedule).eval()
        _, self._layers = self._step.initial_state(self.slots)
        self._masks: dict[str, Tensor] = {}
        self._imposed: dict[str, Tensor] = {}
        self._like = frame
        self._asking = self._recorded = self._record() if self.records(frame) else None

    @staticmethod
    def records(frame: Tensor) -> bool:
        """Whether a frame like this one is recorded as a graph."""
        return frame.is_cuda

    def _record(self) -> RecordedStep:
        """A frame with the masks that are imposed now, as a graph."""
        try:
            return RecordedStep(self._next, self._like, Held(self._counts, self._layers))
        except RuntimeError as error:
            raise BackendError(
                f"the network cannot be recorded as a CUDA graph (does a gate of your own wait "
                f"for the device?): {error}"
            ) from error

    # -- frames ----------------------------------------------------------------------------------

    def advance(self, frame: Tensor, counts: Counts) -> tuple[dict[int, Tensor], Counts]:
        if self._recorded is not None:
            seen = self._recorded(frame)  # counts and layers are written in place
        else:
            seen, (counts, self._layers) = self._next(frame, Held(counts, self._layers))
        self._masks = seen.masks
        return {v: owned(output) for v, output in seen.outputs.items()}, counts

    def _next(self, frame: Tensor, held: Held) -> tuple[Seen, Held]:
        """A frame and what was held before it to what it gives and what is held after it."""
        counts = held.counts
        made = self._step.run(frame, counts.age, held.layers, self._imposed)
        counts = counts.after(self._shares(made), made.begun)
        masks = {key: result.gate for key, result in made.seen.items()}
        return Seen(made.outputs, masks), Held(counts, made.layers)

    def _shares(self, made: Made) -> Tensor:
        """(L, 2, S) shares of outputs computed, and of those that the gate looked at."""
        rows = []
        for i, op in enumerate(self.plan.gated):
            seen = made.seen[str(op.key)]
            opened = expand_blocks(seen.gate, op.block, (seen.z.shape[-2], seen.z.shape[-1]))
            density = opened.to(torch.float64).mean((1, 2, 3))
            looked = torch.zeros_like(density)
            if seen.changed is not None:
                # At a cut the first gate has looked, and no other.
                due = made.due if i == 0 else seen.dense
                looked = torch.where(due, 0.0, seen.changed.to(torch.float64).mean((1, 2, 3)))
            rows.append(torch.stack([density, looked]))
        return torch.stack(rows)

    # -- masks -----------------------------------------------------------------------------------

    def opened(self) -> dict[str, Tensor]:
        return {name: self._masks[str(op.key)][:, 0] > 0.5 for name, op in self.layers.items()}

    @torch.inference_mode()
    def impose(self, masks: Imposed | None) -> None:
        found: dict[str, Tensor] = {}
        for name, op in self.layers.items():
            grid = blocks_of(self.size_of(op), op.block)
            mask = None if masks is None else masks.on(name, grid)
            if mask is not None:
                found[str(op.key)] = mask[:, None].clone()
        if self._recorded is None:
            self._imposed = found
        elif not found:
            self._imposed, self._recorded = found, self._asking
        elif found.keys() == self._imposed.keys():
            for key, mask in found.items():
                self._imposed[key].copy_(mask)
        else:
            before, self._imposed = self._imposed, found
            try:
                self._recorded = self._record()
            except BaseException:
                self._imposed = before
                raise

    # -- what is kept ----------------------------------------------------------------------------

    def buffers(self) -> dict[str, Any]:
        return {"layers": self._layers}
