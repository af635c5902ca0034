"""The native backend: a captured network run by the compiled library, one call per frame."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Any, ClassVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from skippose.backends.base import (
    Backend,
    check_layers,
    copy_saved,
    gated_layers,
    imposed_mask,
    kind_of,
    not_finite,
)
from skippose.backends.native import memory
from skippose.backends.native.interface import Floats, Ints
from skippose.backends.native.library import BufferKind, SkpConv, Slot, Status, best, has, load
from skippose.backends.native.lower import LoweredPlan
from skippose.ops.schedule import Schedule
from skippose.plan.capture import capture
from skippose.plan.errors import BackendError
from skippose.plan.operators.conv import Conv
from skippose.plan.plan import Plan
from skippose.report import Report, StateMemory

_KEPT = (BufferKind.z, BufferKind.held, BufferKind.power, BufferKind.linear, BufferKind.scale)


class NativeBackend(Backend):
    """See the module. Frames are float32, on a CPU.

    Options: ``precision``, ``'float32'`` (default) or ``'bfloat16'``: maps and weights are
    kept and multiplied in half precision, sums and gates are float32; ``threads``: torch's number
    by default.
    """

    name = "native"
    options = frozenset({"precision", "threads"})
    # In torch it would be done by its own threads, which then spin where ours should run.
    checks_values = True
    isa: ClassVar[IntEnum | None] = None
    """Instruction set to use, for tests; None for the best that there is."""

    @classmethod
    def unavailable(cls) -> str | None:
        return load()[1]

    @torch.inference_mode()
    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        precision = options.get("precision", "float32")
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {precision!r}")
        threads = options.get("threads", torch.get_num_threads())
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"threads must be an integer of at least 1, got {threads!r}")
        if frame.dtype != torch.float32 or frame.device.type != "cpu":
            raise BackendError(
                f"the native backend takes float32 frames on a CPU, got {frame.dtype} on "
                f"{frame.device}"
            )
        isa = best() if self.isa is None else self.isa
        if not has(isa):
            raise BackendError(f"this CPU, or this build, lacks {isa.name}")
        self.net, self.schedule, self.precision = net, schedule, precision
        self.plan: Plan = capture(net, frame)
        self.slots = frame.shape[0]
        lowered = LoweredPlan(self.plan)
        self._library = load()[0]
        self._age = torch.zeros(self.slots, dtype=torch.long, device="cpu")
        self._handle = self._library.skp_new(
            self.slots, int(isa), int(precision == "bfloat16"), threads
        )
        if not self._handle:
            raise MemoryError("the native backend could not be made")
        weakref.finalize(self, self._library.skp_free, self._handle)
        self._build(lowered)

    def _build(self, lowered: LoweredPlan) -> None:
        plan, library = self.plan, self._library
        self._used = sorted({0, *(v for op in plan.ops for v in (*op.inputs, op.output))})
        for v in plan.values:
            # Numbers are those of the plan; what was fused away takes no memory.
            size = (v.height, v.width, v.channels) if v.id in set(self._used) else (1, 1, 1)
            library.skp_add_map(self._handle, *size, v.id in lowered.changes, v.id in lowered.added)
        self._convs: list[Any] = []
        self.ops: dict[int, Conv] = {}
        """Gated ones by their number among the library's convolutions."""
        for made in lowered.operations:
            struct = made.struct
            is_conv = isinstance(struct, SkpConv)
            add = library.skp_add_conv if is_conv else library.skp_add_element
            index = add(self._handle, ctypes.byref(struct))
            if index < 0:
                raise MemoryError("no memory for the network's weights")
            if is_conv:
                self._convs.append(struct)
                if made.conv is not None:
                    self.ops[index] = made.conv
        if library.skp_finish(self._handle):
            raise MemoryError("no memory for the network's maps")
        count = len(self._convs)
        # A view of the library's own counters: (convolutions, S, 2).
        counts = ctypes.addressof(library.skp_counts(self._handle).contents)
        self._counts = memory.view(counts, torch.int64, count, self.slots, 2)
        outputs = [c.oh * c.ow for c in self._convs]
        self._outputs = torch.tensor(outputs, dtype=torch.float64, device="cpu")
        self._sums = torch.zeros(count, 2, dtype=torch.float64, device="cpu")
        self._frames = self._first_frames = 0
        self._wanted = {v: self._shape(v) for v in sorted(set(plan.outputs))}
        self._wanted_ids = (ctypes.c_int32 * len(self._wanted))(*self._wanted)

    def _shape(self, value: int) -> tuple[int, int, int, int]:
        """(S, C, H, W) of a value."""
        v = self.plan.values[value]
        return self.slots, v.channels, v.height, v.width

    # -- frames ----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, frame: Tensor) -> Any:
        # Ordinary tensors: the caller may write to them.
        made = {v: memory.empty(*shape) for v, shape in self._wanted.items()}
        self._run(memory.readable(frame, torch.float32), made)
        outputs = [self.plan.values[v].as_output(made[v]) for v in self.plan.outputs]
        return pytree.tree_unflatten(outputs, self.plan.tree)

    @torch.inference_mode()
    def _run(self, frame: Tensor, made: dict[int, Tensor]) -> None:
        due, first = self.schedule.due(self._age), self._age == 0
        dense = (ctypes.c_uint8 * self.slots)(*due.tolist())
        pointers = (Floats * len(made))(
            *(memory.address(made[v], torch.float32, s) for v, s in self._wanted.items())
        )
        cut = -1.0 if self.schedule.cut is None else self.schedule.cut
        status = self._library.skp_run(
            self._handle,
            memory.address(frame, torch.float32, self._shape(0)),
            dense,
            cut,
            len(made),
            ctypes.cast(self._wanted_ids, Ints),
            pointers,
        )
        if status == Status.no_memory:
            raise MemoryError("no memory for the network's outputs")
        if status == Status.forked:
            raise RuntimeError(
                "the stream was made before this process was forked, and its threads are not "
                "here; make it in the process that uses it, or with threads=1"
            )
        if status == Status.not_finite:
            error = not_finite(frame)
            assert error is not None
            raise error
        counted = ~first
        if bool(counted.any()):
            shares = self._counts[:, counted].double().sum(1) / self._outputs[:, None]
            self._sums += shares
        self._frames += int(counted.sum())
        self._first_frames += int(first.sum())
        if self.schedule.cut is not None:
            cut_now = [flag == Slot.cut for flag in dense]
            self._age[torch.tensor(cut_now, dtype=torch.bool, device="cpu")] = 0
        self._age += 1

    @torch.inference_mode()
    def forget(self, slots: Sequence[int]) -> None:
        self._age[list(slots)] = 0

    @torch.inference_mode()
    def fix_masks(self, cells: Tensor | Mapping[Any, Tensor] | None) -> None:
        # All of them are found good before the first one is taken.
        masks: list[Tensor] = []
        pointers: list[Any] = []
        for i, conv in enumerate(self._convs):
            grid = (-(-conv.oh // conv.block_h), -(-conv.ow // conv.block_w))
            key = self.ops[i].key if i in self.ops else None
            mask = imposed_mask(cells, key, self.slots, grid)
            if mask is None:
                pointers.append(None)
                continue
            masks.append(memory.readable(mask, torch.uint8))
            pointers.append(memory.address(masks[-1], torch.uint8, (self.slots, *grid)))
        for i, pointer in enumerate(pointers):
            self._library.skp_set_mask(self._handle, i, pointer)  # which copies it

    @torch.inference_mode()
    def masks(self) -> dict[Any, Tensor]:
        return {op.key: self.opened(i).bool() for i, op in self.ops.items()}

    def report(self) -> Report:
        rows = [replace(row, density_sum=float(self._frames)) for row in self.plan.costs]
        for i, op in self.ops.items():
            if op.cost is not None:
                computed, looked = self._sums[i].tolist()
                rows[op.cost] = replace(
                    rows[op.cost], density_sum=computed, gate_density_sum=looked
                )
        taken = StateMemory(self.state_bytes, self._conv_bytes())
        return Report(tuple(rows), self._frames, self._first_frames, taken)

    # -- what is inside --------------------------------------------------------------------------

    @property
    def state_bytes(self) -> int:
        """Memory of maps and of everything that is kept between frames."""
        return int(self._library.skp_state_bytes(self._handle))

    def _conv_bytes(self) -> int:
        """Inputs and outputs of all convolutions, in the precision of the maps."""
        values = self.plan.values
        used = [
            values[v]
            for op in self.plan.ops
            if op.macs(values) and not values[op.output].flat
            for v in (op.inputs[0], op.output)
        ]
        size = sum(v.height * v.width * v.channels for v in used)
        return self.slots * size * (2 if self.half else 4)

    @property
    def half(self) -> bool:
        """Whether maps are bfloat16."""
        return self.precision == "bfloat16"

    def map(self, value: int) -> Tensor:
        """A view of a map, (S, C, H, W); bfloat16 or float32."""
        v = self.plan.values[value]
        pitch = self._library.skp_map_pitch(self._handle, value)
        flat = _memory(self._library.skp_map_buffer(self._handle, value, 0))
        assert flat is not None
        flat = flat.view(torch.bfloat16 if self.half else torch.float32)
        return flat.view(self.slots, v.height, v.width, pitch)[..., : v.channels].permute(
            0, 3, 1, 2
        )

    def opened(self, conv: int) -> Tensor:
        """A view of a convolution's mask in the last frame, (S, Hb, Wb) uint8."""
        struct = self._convs[conv]
        flat = self._buffer(conv, BufferKind.open)
        assert flat is not None
        rows = -(-struct.oh // struct.block_h)
        return flat.view(self.slots, rows, -1)

    def _buffer(self, conv: int, kind: IntEnum) -> Tensor | None:
        return _memory(self._library.skp_conv_buffer(self._handle, conv, int(kind)))

    # -- moving ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def state_dict(self) -> dict[str, Any]:
        layers: dict[str, dict[str, Tensor]] = {}
        for i, op in self.ops.items():
            kept = {k.name: b.clone() for k in _KEPT if (b := self._buffer(i, k)) is not None}
            # Of which layer: its outputs, as every backend's state has them.
            nothing = torch.empty(0, dtype=torch.uint8, device="cpu")
            layers[str(op.key)] = {**kept, "memory": kept.pop("z", nothing)}
            layers[str(op.key)]["z"] = self.map(op.output).clone()
        frame = _memory(self._library.skp_last_frame(self._handle))
        assert frame is not None
        return {
            "age": self._age.clone(),
            "precision": self.precision,
            "gates": {name: kind_of(layer) for name, layer in gated_layers(self.net).items()},
            "last_frame": frame.clone(),
            "maps": {v: self.map(v).clone() for v in self._used},
            "layers": layers,
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_layers(self.net, state, self.plan.calls)
        if state["precision"] != self.precision:
            raise ValueError(
                f"the state is in precision {state['precision']!r}, this stream computes in "
                f"{self.precision!r}"
            )
        pairs: list[tuple[Tensor | None, Tensor | None]] = [
            (state["maps"].get(v), self.map(v) if v in self._used else None)
            for v in {*self._used, *state["maps"]}
        ]
        for i, op in self.ops.items():
            saved = state["layers"][str(op.key)]
            for kind in _KEPT:
                mine = self._buffer(i, kind)
                theirs = saved.get("memory" if kind is BufferKind.z else kind.name)
                if mine is not None or (theirs is not None and theirs.numel()):
                    pairs.append((theirs, mine))
        pairs.append((state["last_frame"], _memory(self._library.skp_last_frame(self._handle))))
        copy_saved(pairs)
        self._library.skp_begin(self._handle)
        self._age = state["age"].clone()


def _memory(buffer: Any) -> Tensor | None:
    """A view of a buffer's bytes."""
    if not buffer.data or not buffer.bytes:
        return None
    return memory.view(buffer.data, torch.uint8, buffer.bytes)
