"""The block backend: a captured network in plain torch, touching only blocks that changed.

Every value lives in one buffer, channels innermost. A convolution asks its gate about the blocks
whose receptive field changed, gathers the patches of those that open, convolves them as a batch,
and scatters the results after batch norm, additions and activation; what follows looks only at
blocks that were written. A layer with many open blocks is convolved as a whole, and its closed
blocks keep their values all the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skippose.backends.base import Backend
from skippose.backends.masks import Imposed
from skippose.backends.plan_backend import Counts, PlanBackend, owned
from skippose.backends.registry import register_backend
from skippose.backends.torch_blocks.conv import ConvNode
from skippose.backends.torch_blocks.gates import ChangeGate, GateError
from skippose.backends.torch_blocks.maps import Map, Tables
from skippose.backends.torch_blocks.nodes import DenseNode, Frame, LocalNode, Maps, Node
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.ops.geometry import accumulation_dtype
from skippose.ops.schedule import Schedule
from skippose.plan.op import Op, Pixelwise
from skippose.plan.operators.conv import Conv
from skippose.plan.plan import Plan


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


@register_backend
class BlocksBackend(PlanBackend):
    """See the module; on a CPU."""

    name = "torch"
    preference = 20
    form = "blocks"
    foreign_state = (
        "the state was made on another device, where backend 'torch' holds whole maps; on a CPU it "
        "does not go on: begin anew, or move the stream with backend='eager'"
    )

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
        super().__init__(net, frame, schedule, **options)
        self._imposed = self._released = False
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
        self._maps: dict[int, Map] = {}
        for v, rows, dirty in zip(used, sizes, self._dirty.split(sizes), strict=True):
            shape = (rows, plan.values[v].channels)
            data = torch.zeros(shape, dtype=plan.dtype, device=plan.device)
            delta = torch.zeros_like(data, dtype=exact) if v in needs_delta else None
            slack = 0.0 if v == 0 or not exactly else rounding(plan.dtype)
            self._maps[v] = Map(plan.values[v], data, dirty, exactly or v == 0, slack, delta=delta)
        build = _Nodes(plan, self._maps, self.slots)
        self._nodes: list[Node] = [op.place(build) for op in plan.ops]
        self.convs = build.convs
        self._was_live = False
        self.gated = [conv for conv in self.convs if conv.op.gated is not None]

    # -- frames ----------------------------------------------------------------------------------

    def advance(self, frame: Tensor, counts: Counts) -> tuple[dict[int, Tensor], Counts]:
        due = self.schedule.due(counts.age) | self._released
        now = Frame(due.clone(), self.slots, self.schedule.cut, bool(due.any()))
        if self._was_live or self.broken:
            self._dirty.zero_()
            for m in self._maps.values():
                m.begin()
        self.broken = self._was_live = True
        self._read(frame, due)
        live = self._maps[0].live or self._imposed
        shares: Tensor | None = None
        if live:
            for i, node in enumerate(self._nodes):
                node.run(now, decides=i == self.plan.decider)
            found = [share for c in self.gated for share in (*c.density, *c.looked)]
            shares = torch.tensor(found, dtype=torch.float64, device="cpu")
            shares = shares.view(len(self.gated), 2, self.slots)
        self._was_live = live
        self._released = False
        begun = None if self.schedule.cut is None else now.due & ~due
        outputs = {v: owned(self._maps[v].images) for v in self.plan.outputs}
        return outputs, counts.after(shares, begun)

    def _read(self, frame: Tensor, due: Tensor) -> None:
        """The frame into its map; slots that are due count as changed everywhere."""
        start, image = self._maps[0], frame.permute(0, 2, 3, 1)
        start.write(torch.arange(self.slots, dtype=torch.long, device="cpu"), image)
        start.live = start.live or bool(due.any())

    # -- masks -----------------------------------------------------------------------------------

    def opened(self) -> dict[str, Tensor]:
        return {
            self.names[conv.op.key]: conv.opened if self._was_live else conv.opened.zero_()
            for conv in self.gated
        }

    @torch.inference_mode()
    def impose(self, masks: Imposed | None) -> None:
        """See the base class. The frame after masks were taken away is dense in all slots.

        While they were imposed nobody kept what gates refer to; that is no part of the work that
        masks are imposed to measure.
        """
        released = False
        for conv in self.convs:
            mask = None if masks is None else masks.on(self.names.get(conv.op.key), conv.grid)
            released = conv.fix_mask(mask) or released
        self._released = self._released or released
        self._imposed = any(conv.imposed for conv in self.convs)
        asked = any(conv.gate is not None and not conv.imposed for conv in self.convs)
        for m in self._maps.values():
            m.measures = asked

    # -- what is kept ----------------------------------------------------------------------------

    @property
    def unsure(self) -> bool:
        # Where the next frame would be dense here, or gates were not asked, it is elsewhere too.
        return self.broken or self._imposed or self._released

    def maps(self) -> dict[int, Tensor]:
        return {v: m.images.clone() for v, m in self._maps.items()}

    def buffers(self) -> dict[str, Any]:
        held: dict[str, dict[str, Any]] = {"layers": {}, "dense": {}}
        for conv in self.convs:
            if conv.op.gated is None:
                held["dense"][str(conv.op.key)] = conv.held()
            else:
                held["layers"][str(conv.op.key)] = {"z": conv.output.images, **conv.held()}
        return {"maps": {v: m.inner(m.data) for v, m in self._maps.items()}, **held}

    def loaded(self) -> None:
        for conv in self.convs:
            if conv.gate is not None:
                conv.gate.forget()
