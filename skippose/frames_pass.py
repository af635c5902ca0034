"""A gated forward pass over frames: what belongs to which call, and what it cost."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skippose.layers import SkipConv2d, active, active_pass, gated_pass, module_names
from skippose.layers.active import inside_backward, watching_threads
from skippose.layers.dense import draw_once
from skippose.layers.network import check_ran, not_seen
from skippose.layers.skip_conv import layer_name
from skippose.ops import GatedConvolution, SkipResult, SkipState, skip_conv_clip, skip_conv_step
from skippose.ops.contract import stack_gates
from skippose.ops.schedule import Schedule
from skippose.report import LayerCost, Report, total


class Call(NamedTuple):
    """One call of a layer within a frame: what state and costs belong to."""

    layer: nn.Module
    number: int


@dataclass
class NetState:
    """What a network remembers between frames.

    Attributes:
        age: (S,) frames since each slot began or was last cut; 0 begins with the next frame.
        layers: the state of every call of a gated layer.
    """

    age: Tensor
    layers: dict[Call, SkipState] = field(default_factory=dict)


@dataclass
class CallRecord:
    """Costs of one call over (B, T) frames.

    Attributes:
        macs: of a dense frame.
        gate_macs: of its gate, looking everywhere.
        additions: of its norm, per frame.
        density: (B, T) share of outputs computed, with gradient where gates learn; None for a
            layer without a gate.
        gate_density: (B, T) share of outputs its gate's convolution looked at.
        gate: (B, T, 1, Hb, Wb) bool, where masks are kept.
        block: (rows, columns) of outputs per mask cell.
        out_size: (H', W').
    """

    macs: int
    gate_macs: int = 0
    additions: int = 0
    density: Tensor | None = None
    gate_density: Tensor | None = None
    gate: Tensor | None = None
    block: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (0, 0)


class FramesPass:
    """A gated pass over B clips or slots of T frames; see :func:`clips` and the streams.

    Keeps apart the calls of a layer, decides which frames are dense, and notes costs.
    """

    def __init__(
        self,
        frames: int,
        schedule: Schedule,
        state: NetState | None = None,
        keep_state: bool = False,
        keep_masks: bool = False,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.frames = frames
        self.schedule = schedule
        self.keep_state = keep_state
        self.keep_masks = keep_masks
        self.lengths: Tensor | None = None
        if lengths is not None:
            self.lengths = torch.as_tensor(lengths, dtype=torch.long, device="cpu")
        self.before = state
        self.after: dict[Call, SkipState] = {}
        self.records: dict[Call, CallRecord] = {}
        self.frame_size: tuple[int, int] | None = None
        self.batch = 0
        self.first = torch.zeros(0, frames, dtype=torch.bool, device="cpu")
        """(B, T): first frames of clips or slots, which densities leave out."""
        self.dense = torch.zeros(0, frames, dtype=torch.bool, device="cpu")
        """(B, T): frames computed in full, as far as is known."""
        self.age_after: Tensor | None = None
        self._calls: dict[nn.Module, int] = {}
        self._uncounted: list[Call] = []
        self._decider: Call | None = None
        self._recording = True
        self._networks: dict[nn.Module, None] = {}
        self._elsewhere: dict[str, None] = {}
        self._called = False

    # -- what layers call ------------------------------------------------------------------------

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        """One layer: (B·T, C, H, W) to (B·T, O, H', W')."""
        self._enter(layer, x)
        call = self._next_call(layer)
        gate = layer.gate
        if gate is None or gate.always_open:
            z = layer.dense(x)
            record = CallRecord(z[0, 0].numel() * layer.macs_per_location)
            if gate is not None:
                record.gate_macs = z[0, 0].numel() * gate.macs_per_output(layer)
                shape = (self.batch, self.frames)
                record.density = torch.ones(shape, dtype=torch.float32, device=x.device)
                record.gate_density = torch.zeros_like(record.density)
                record.out_size = (z.shape[-2], z.shape[-1])
            self._note(call, record)
            return z
        assert self.frame_size is not None
        operation = layer.gated(self.frame_size, x.shape[-2], x.shape[-1])
        state = None if self.before is None else self.before.layers.get(call)
        if self.before is not None and state is None:
            raise RuntimeError(
                f"{layer_name(layer)}: call {call.number + 1} within a frame, but the frames "
                "before made fewer calls; a network's calls must not change from frame to frame"
            )
        images = x.unflatten(0, (self.batch, self.frames))
        if self._decider is None and self.schedule.cut is not None:
            self._decider = call
        try:
            if self._decider == call:
                result = self._decide_cuts(images, operation, state)
            elif self.frames == 1:
                result = _one_frame(images, operation, state, self.dense[:, 0])
            else:
                result = skip_conv_clip(images, operation, state, self.dense, self.keep_state)
        except ValueError as error:
            raise ValueError(f"{layer_name(layer)}: {error}") from error
        if result.state is not None and self._recording:
            self.after[call] = result.state
        self._note(call, self._record(layer, operation, result))
        return result.z.flatten(0, 1)

    def count_dense(self, layer: nn.Module, x: Tensor, macs: int) -> None:
        """Notes a layer that is not gated; ``macs`` of this whole call."""
        self._called = True
        if inside_backward():
            return  # a checkpoint recomputes a layer that has been counted
        call = self._next_call(layer)
        if self.frame_size is None and isinstance(layer, nn.Conv2d):
            self._begin(layer, x)
        if self.batch:
            macs //= self.batch * self.frames
        else:
            self._uncounted.append(call)  # how many frames these were is known with the first image
        self._note(call, CallRecord(macs))

    def repeat_draw(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One draw of a random layer per clip."""
        if self.batch == 0 or x.shape[0] != self.batch * self.frames:
            self._enter(layer, x)
        return draw_once(layer, x, self.batch)

    # -- frames ----------------------------------------------------------------------------------

    def _enter(self, layer: nn.Module, x: Tensor) -> None:
        self._called = True
        if inside_backward() and self._recording:
            raise RuntimeError(
                f"{layer_name(layer)}: activation checkpointing recomputes it as if it were a "
                "further call; use skippose.context.checkpoint (SkipHRNet does with with_cp=True)"
            )
        if x.dim() != 4:
            raise ValueError(
                f"{layer_name(layer)}: expected images (N, C, H, W), got {tuple(x.shape)}"
            )
        count = x.shape[0]
        if self.frame_size is None:
            self._begin(layer, x)
        if count != self.batch * self.frames:
            raise ValueError(
                f"{layer_name(layer)}: got a batch of {count} images where the pass began with "
                f"{self.batch} x {self.frames} frames"
            )

    def _begin(self, layer: nn.Module, x: Tensor) -> None:
        """The first input fixes batch, frame size and the dense frames."""
        if x.shape[0] == 0 or x.shape[0] % self.frames:
            raise ValueError(
                f"{layer_name(layer)}: a batch of {x.shape[0]} images does not divide into clips "
                f"of {self.frames} frames"
            )
        batch = x.shape[0] // self.frames
        if self.lengths is not None and len(self.lengths) != batch:
            raise ValueError(
                f"{len(self.lengths)} lengths were given for {batch} clips of {self.frames} frames"
            )
        if self.before is not None and len(self.before.age) != batch:
            raise ValueError(
                f"the state is of {len(self.before.age)} clips, the batch has {batch} of "
                f"{self.frames} frames"
            )
        for call in self._uncounted:
            self.records[call].macs //= batch * self.frames
        self.batch = batch
        self.frame_size = (x.shape[-2], x.shape[-1])
        age = self.age_before
        self.dense = self.schedule.plan(age, self.frames)
        self.first = age[:, None] + self._numbers == 0
        self.age_after = age + self.frames

    @property
    def age_before(self) -> Tensor:
        """(B,) frames since each clip or slot began, before this pass."""
        if self.before is not None:
            return self.before.age
        return torch.zeros(self.batch, dtype=torch.long, device="cpu")

    @property
    def _numbers(self) -> Tensor:
        """(T,): the frames' numbers within a clip, on the CPU as ages are."""
        return torch.arange(self.frames, dtype=torch.long, device="cpu")

    def _decide_cuts(
        self, images: Tensor, operation: GatedConvolution, state: SkipState | None
    ) -> SkipResult:
        """The first gated layer, frame by frame: its densities say where the slots begin anew."""
        age = self.age_before
        steps, planned = [], []
        for t in range(self.frames):
            due = self.schedule.due(age)
            planned.append(due)
            step = _step(images[:, t], operation, state, due, self.schedule.cut)
            age = torch.where(step.dense & ~due, 0, age) + 1
            state = step.state
            steps.append(step)
        self.dense = torch.stack([step.dense for step in steps], 1)
        self.age_after = age
        return SkipResult(
            z=torch.stack([s.z for s in steps], 1),
            gate=stack_gates([s.gate for s in steps]),
            changed=None
            if steps[0].changed is None
            else torch.stack([s.changed for s in steps if s.changed is not None], 1),
            dense=torch.stack(planned, 1),  # where the gate did not look; it did at cuts
            state=state,
        )

    def _next_call(self, layer: nn.Module) -> Call:
        index = self._calls.get(layer, 0)
        self._calls[layer] = index + 1
        return Call(layer, index)

    # -- costs -----------------------------------------------------------------------------------

    def _note(self, call: Call, record: CallRecord) -> None:
        if self._recording:
            self.records[call] = record

    def _record(
        self, layer: SkipConv2d, operation: GatedConvolution, result: SkipResult
    ) -> CallRecord:
        assert layer.gate is not None
        height, width = result.z.shape[-2:]
        locations = height * width
        mask = operation.expand(result.gate, (height, width)).float()
        density = mask.mean((-3, -2, -1))
        if result.changed is None:
            looked = torch.zeros_like(density)
        else:
            looked = result.changed.float().mean((-3, -2, -1))
            looked = looked.masked_fill(result.dense.to(looked.device), 0)
        return CallRecord(
            macs=locations * layer.macs_per_location,
            gate_macs=locations * layer.gate.macs_per_output(layer),
            additions=locations * layer.gate.additions_per_output(layer),
            density=density,
            gate_density=looked.detach(),
            gate=(result.gate > 0.5).detach() if self.keep_masks else None,
            block=operation.block,
            out_size=(height, width),
        )

    @property
    def counted(self) -> Tensor:
        """(B, T) bool: frames that densities are means over: neither first nor padding."""
        counted = ~self.first
        if self.lengths is not None:
            counted = counted & (self._numbers < self.lengths[:, None])
        return counted

    def gate_loss(self) -> Tensor:
        """``1/(T-1) Σ_t Σ_l m_l E[g] / Σ_l m_l``: the expected share of the gated layers' MACs.

        First and padding frames are left out. A scalar; its gradient reaches learned gates. Zero
        where there is no second frame.

        Raises:
            RuntimeError: if no gated layer ran.
        """
        gated = [(r.macs, r.density) for r in self.records.values() if r.density is not None]
        if not gated:
            raise RuntimeError(
                "there is no gate loss, for no gated layer ran in this pass: gate the network with "
                f"skippose.convert, or leave the loss out. {not_seen(self._elsewhere)}"
            )
        densities = torch.stack([density for _, density in gated])
        macs = densities.new_tensor([float(m) for m, _ in gated])
        counted = self.counted.to(densities.device)
        share = (macs[:, None, None] * densities).sum(0) / macs.sum()
        return (share * counted).sum() / counted.sum().clamp_min(1)

    def report(self, net: nn.Module) -> Report:
        """Costs so far, over all clips or slots; names are those that layers have in ``net``."""
        return total(self.clip_reports(net))

    def clip_reports(self, net: nn.Module) -> list[Report]:
        """Costs so far, one report for each clip or slot.

        Raises:
            ValueError: if a layer that ran is not part of ``net``; if layers ran, and none of the
                gated ones of ``net``.
        """
        names = module_names(net)
        if self.records and not (ran := self._gated_layers_that_ran):
            check_ran([net], ran, self._elsewhere)
        counted = self.counted
        rows = []
        for call, record in self.records.items():
            if call.layer not in names:
                raise ValueError(f"{layer_name(call.layer)} ran but is not part of the given net")
            name = names[call.layer] + (f"#{call.number}" if call.number else "")
            density = counted.double()
            looked = torch.zeros_like(density)
            if record.density is not None and record.gate_density is not None:
                density = record.density.detach().cpu().double() * counted
                looked = record.gate_density.cpu().double() * counted
            rows.append((name, record, density.sum(1).tolist(), looked.sum(1).tolist()))
        return [
            Report(
                tuple(
                    LayerCost(
                        name=name,
                        macs=record.macs,
                        gate_macs=record.gate_macs,
                        additions=record.additions,
                        gated=record.density is not None,
                        density_sum=density[b],
                        gate_density_sum=looked[b],
                    )
                    for name, record, density, looked in rows
                ),
                frames=int(counted[b].sum()),
                first_frames=int(self.first[b].sum()),
            )
            for b in range(self.batch)
        ]

    # -- what should have run --------------------------------------------------------------------

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Makes this the gated pass of the thread; see :meth:`check_ran`."""
        with gated_pass(self), watching_threads(self._elsewhere):
            yield

    def expect(self, net: nn.Module) -> None:
        """Notes a network that ran in this pass, and should have with all of its gated layers."""
        self._networks[net] = None

    @property
    def _gated_layers_that_ran(self) -> set[nn.Module]:
        return {call.layer for call, r in self.records.items() if r.density is not None}

    def check_ran(self) -> None:
        """Names the gated layers that did not run in this pass: in a warning, once.

        Raises:
            ValueError: if no gated layer ran of networks that have some.
            RuntimeError: if no layer ran at all.
        """
        ran = self._gated_layers_that_ran
        check_ran(self._networks, ran, self._elsewhere)
        if not self._called:
            raise RuntimeError(f"no layer ran in this pass. {not_seen(self._elsewhere)}")
        if self._elsewhere and not ran:
            message = f"no gated layer ran in this pass. {not_seen(self._elsewhere)}"
            warnings.warn(message, stacklevel=2)

    # -- state and checkpointing -----------------------------------------------------------------

    @property
    def state(self) -> NetState:
        """What the frames after need; for passes that were asked to keep it."""
        if not self.keep_state or self.age_after is None:
            raise ValueError("no state was kept: pass keep_state=True, and run the network")
        if self.before is not None and self.before.layers.keys() != self.after.keys():
            raise RuntimeError(
                f"the network made {len(self.after)} gated calls within a frame, "
                f"{len(self.before.layers)} in the frames before, or of other layers; a network's "
                "calls must not change from frame to frame"
            )
        return NetState(self.age_after, self.after)

    def calls_so_far(self) -> dict[nn.Module, int]:
        """How often each layer has been called, for :meth:`replay`."""
        return dict(self._calls)

    def replay(self, calls: dict[nn.Module, int]) -> FramesPass:
        """The same pass for recomputing a part of it: call numbers as then, nothing noted."""
        again = copy.copy(self)
        again._calls = dict(calls)
        again._recording = False
        return again


def _one_frame(
    images: Tensor, operation: GatedConvolution, state: SkipState | None, dense: Tensor
) -> SkipResult:
    """The step form in the shapes of the clip form, T = 1."""
    step = _step(images[:, 0], operation, state, dense)
    changed = None if step.changed is None else step.changed[:, None]
    return SkipResult(step.z[:, None], step.gate[:, None], changed, step.dense[:, None], step.state)


def _step(
    x: Tensor,
    operation: GatedConvolution,
    state: SkipState | None,
    due: Tensor,
    cut: float | None = None,
) -> SkipResult:
    """The step form for a network's own modules; ``due`` and the result's ``dense`` on the CPU."""
    step = skip_conv_step(x, operation, state, due.to(x.device), cut)
    return step._replace(dense=step.dense.cpu())


def tell_pass(net: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """A forward hook that tells the pass around it which network has run."""
    run = active_pass()
    if isinstance(run, FramesPass):
        active.outside_compiler(run.expect, net)
