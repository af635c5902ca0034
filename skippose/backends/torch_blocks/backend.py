"""The block backend: a captured network in plain torch, touching only blocks that changed.

Every value lives in one buffer, channels innermost. A convolution asks its gate about the blocks
whose receptive field changed, gathers the patches of those that open, convolves them as a batch,
and scatters the results after batch norm, additions and activation; what follows looks only at
blocks that were written. A layer with many open blocks is convolved as a whole, and its closed
blocks keep their values all the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from skippose.backends.base import Backend, check_layers, copy_saved, gated_layers, kind_of
from skippose.backends.torch_blocks.conv import ConvNode
from skippose.backends.torch_blocks.gates import ChangeGate, GateError
from skippose.backends.torch_blocks.maps import Map, Tables
from skippose.backends.torch_blocks.nodes import DenseNode, Frame, LocalNode, Maps, Node
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.ops.geometry import accumulation_dtype
from skippose.ops.schedule import Schedule
from skippose.plan.capture import capture
from skippose.plan.op import Op, Pixelwise
from skippose.plan.operators.conv import Conv
from skippose.plan.plan import Plan
from skippose.report import Report

FORM = "blocks"


def rounding(dtype: torch.dtype) -> float:
    """How far, relatively, two convolutions of the same input may lie apart."""
    return max(torch.finfo(dtype).eps, 64 * torch.finfo(accumulation_dtype(dtype)).eps)


class _Nodes:
    """What computes each operation of a plan.

    Attributes:
        convs: the convolutions so far.
    """

    def __init__(self, plan: Plan, maps: Maps, slots: int) -> None:
        self.convs: list[ConvNode] = []
        self._plan, self._maps, self._tables = plan, maps, Tables(slots, plan.device)
        self._gates: dict[Any, ChangeGate] = {}
        # The first gated layer may make slots dense that it has decided about.
        self._decider = None if plan.decider is None else plan.ops[plan.decider]

    def whole(self, op: Op) -> DenseNode:
        return DenseNode(op, self._plan, self._maps, self._tables.slots)

    def pixelwise(self, op: Pixelwise) -> LocalNode:
        return LocalNode(op, self._plan, self._tile(op), self._maps, self._tables)

    def convolution(self, op: Conv) -> ConvNode:
        gates = {} if op is self._decider else self._gates
        node = ConvNode(op, self._plan, self._tile(op), self._maps, self._tables, gates)
        self.convs.append(node)
        return node

    def _tile(self, op: Op) -> tuple[int, int]:
        return self._plan.tile(self._plan.values[op.output].size)


class BlocksBackend(Backend):
    """See the module; on a CPU."""

    name = "torch"

    @classmethod
    def make(cls, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> Backend:
        """On a CPU this; elsewhere, and for gates that only know whole maps, the other one."""
        if not frame.is_cpu:
            return MapsBackend(net, frame, schedule, **options)
        try:
            return cls(net, frame, schedule, **options)
        except GateError as error:
            whole = MapsBackend(net, frame, schedule, **options)
            whole.notice = f"it computes every convolution in full: {error}"
            return whole

    @torch.inference_mode()
    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        self.net, self.schedule = net, schedule
        self.plan: Plan = capture(net, frame)
        self.slots = frame.shape[0]
        self._age = torch.zeros(self.slots, dtype=torch.long, device="cpu")
        self._broken = self._imposed = self._released = False
        self._frames = self._first_frames = 0
        self._build()

    # -- building --------------------------------------------------------------------------------

    def _build(self) -> None:
        plan, exact = self.plan, accumulation_dtype(self.plan.dtype)
        used = sorted({0, *(v for op in plan.ops for v in (*op.inputs, op.output))})
        exactly = any(op.gated is not None and op.gated.must_know_changed for op in plan.gated)
        needs_delta = {op.inputs[0] for op in plan.gated if op.reference == "previous"}
        sizes = [self.slots * plan.values[v].height * plan.values[v].width + 2 for v in used]
        # All in one piece, cleared once a frame.
        self._dirty = torch.zeros(sum(sizes), dtype=torch.uint8, device=plan.device)
        self.maps: dict[int, Map] = {}
        for v, rows, dirty in zip(used, sizes, self._dirty.split(sizes), strict=True):
            shape = (rows, plan.values[v].channels)
            data = torch.zeros(shape, dtype=plan.dtype, device=plan.device)
            delta = torch.zeros_like(data, dtype=exact) if v in needs_delta else None
            slack = 0.0 if v == 0 or not exactly else rounding(plan.dtype)
            self.maps[v] = Map(plan.values[v], data, dirty, exactly or v == 0, slack, delta=delta)
        build = _Nodes(plan, self.maps, self.slots)
        self._nodes: list[Node] = [op.place(build) for op in plan.ops]
        self.convs = build.convs
        self._was_live = False

    # -- frames ----------------------------------------------------------------------------------

    def step(self, frame: Tensor) -> Any:
        self._run(frame)
        outputs = [
            self.plan.values[v].as_output(self.maps[v].images.clone()) for v in self.plan.outputs
        ]
        return pytree.tree_unflatten(outputs, self.plan.tree)

    @torch.inference_mode()
    def _run(self, frame: Tensor) -> None:
        if self._broken:
            warnings.warn(
                "a frame failed while it was being computed; this one is dense in all slots",
                stacklevel=4,
            )
            self._age.zero_()
        due = self.schedule.due(self._age) | self._released
        first = self._age == 0
        now = Frame(due.clone(), self.slots, self.schedule.cut, bool(due.any()))
        if self._was_live or self._broken:
            self._dirty.zero_()
            for m in self.maps.values():
                m.begin()
        self._broken = self._was_live = True
        self._read(frame, due)
        live = self.maps[0].live or self._imposed
        if live:
            for i, node in enumerate(self._nodes):
                node.run(now, decides=i == self.plan.decider)
        self._was_live = live
        # Everything went through.
        self._broken = self._released = False
        counted = (~first).tolist()
        if live:
            for conv in self.convs:
                conv.tally(counted)
        self._frames += sum(counted)
        self._first_frames += self.slots - sum(counted)
        self._age = torch.where(now.due & ~due, 0, self._age) + 1

    def _read(self, frame: Tensor, due: Tensor) -> None:
        """The frame into its map; slots that are due count as changed everywhere."""
        start, image = self.maps[0], frame.permute(0, 2, 3, 1)
        start.write(torch.arange(self.slots, dtype=torch.long, device="cpu"), image)
        start.live = start.live or bool(due.any())

    @torch.inference_mode()
    def forget(self, slots: Sequence[int]) -> None:
        self._age[list(slots)] = 0

    @torch.inference_mode()
    def fix_masks(self, cells: Tensor | Mapping[Any, Tensor] | None) -> None:
        """See the base class. The frame after masks were taken away is dense in all slots.

        While they were imposed nobody kept what gates refer to; that is no part of the work that
        masks are imposed to measure.
        """
        released = [conv.fix_mask(cells) for conv in self.convs]
        self._released = self._released or any(released)
        self._imposed = any(conv.imposed for conv in self.convs)
        asked = any(conv.gate is not None and not conv.imposed for conv in self.convs)
        for m in self.maps.values():
            m.measures = asked

    def masks(self) -> dict[Any, Tensor]:
        gated = [conv for conv in self.convs if conv.op.gated is not None]
        return {
            conv.op.key: conv.opened if self._was_live else torch.zeros_like(conv.opened)
            for conv in gated
        }

    def report(self) -> Report:
        rows = list(self.plan.costs)
        for i, row in enumerate(rows):
            rows[i] = replace(row, density_sum=float(self._frames))
        for conv in self.convs:
            if conv.op.gated is not None and conv.op.cost is not None:
                rows[conv.op.cost] = replace(
                    rows[conv.op.cost],
                    density_sum=conv.density_sum,
                    gate_density_sum=conv.looked_sum,
                )
        return Report(tuple(rows), self._frames, self._first_frames)

    # -- moving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        # Where the next frame would be dense here, or gates were not asked, it is elsewhere too.
        unknown = self._broken or self._imposed or self._released
        age = torch.zeros_like(self._age) if unknown else self._age.clone()
        layers: dict[str, dict[str, Any]] = {"layers": {}, "dense": {}}
        for conv in self.convs:
            layers["layers" if conv.op.gated else "dense"][str(conv.op.key)] = conv.state_dict()
        return {
            "form": FORM,
            "age": age,
            "gates": {name: kind_of(layer) for name, layer in gated_layers(self.net).items()},
            "maps": {v: m.inner(m.data).clone() for v, m in self.maps.items()},
            **layers,
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("form") != FORM:
            raise ValueError(
                "the state was made on another device, where backend 'torch' holds whole maps; on "
                "a CPU it does not go on: begin anew, or move the stream with backend='eager'"
            )
        check_layers(self.net, state, self.plan.calls)
        inner = {v: m.inner(m.data) for v, m in self.maps.items()}
        pairs: list[tuple[Tensor | None, Tensor | None]] = [
            (state["maps"].get(v), inner.get(v)) for v in inner.keys() | state["maps"].keys()
        ]
        for conv in self.convs:
            saved = state["layers" if conv.op.gated else "dense"].get(str(conv.op.key), {})
            pairs += [(saved.get(name), mine) for name, mine in conv.held().items()]
        copy_saved(pairs)
        for conv in self.convs:
            if conv.gate is not None:
                conv.gate.forget()
        self._age = state["age"].clone()
