"""The native backend: a captured network run by the compiled library, one call per frame."""

from __future__ import annotations

import ctypes
import weakref
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skippose.backends.base import not_finite
from skippose.backends.masks import Imposed, blocks_of
from skippose.backends.native import memory
from skippose.backends.native.interface import Floats, Ints
from skippose.backends.native.library import BufferKind, SkpConv, Slot, Status, best, has, load
from skippose.backends.native.lower import LoweredPlan
from skippose.backends.plan_backend import Counts, PlanBackend
from skippose.backends.registry import register_backend
from skippose.ops.schedule import Schedule
from skippose.plan.errors import BackendError
from skippose.report import StateMemory

_KEPT = (BufferKind.held, BufferKind.power, BufferKind.linear, BufferKind.scale)


@register_backend
class NativeBackend(PlanBackend):
    """See the module. Frames are float32, on a CPU.

    Options: ``precision``, ``'float32'`` (default) or ``'bfloat16'``: maps and weights are
    kept and multiplied in half precision, sums and gates are float32; ``threads``: torch's number
    by default.
    """

    name = "native"
    preference = 30
    form = "native"
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
        super().__init__(net, frame, schedule, **options)
        self.precision = precision
        lowered = LoweredPlan(self.plan)
        self._library = load()[0]
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
        # By gated layer, in the plan's order: its number among the library's convolutions.
        self._gated: dict[str, int] = {}
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
                    self._gated[self.names[made.conv.key]] = index
        if library.skp_finish(self._handle):
            raise MemoryError("no memory for the network's maps")
        count = len(self._convs)
        # A view of the library's own counters: (convolutions, S, 2).
        counts = ctypes.addressof(library.skp_counts(self._handle).contents)
        self._counts_by_conv = memory.view(counts, torch.int64, count, self.slots, 2)
        chosen = list(self._gated.values())
        self._rows = torch.tensor(chosen, dtype=torch.long, device="cpu")
        outputs = [self._convs[i].oh * self._convs[i].ow for i in chosen]
        self._outputs = torch.tensor(outputs, dtype=torch.float64, device="cpu")[:, None, None]
        self._opened = {name: self._open_blocks(i) for name, i in self._gated.items()}
        self._wanted = {v: self._shape(v) for v in sorted(set(plan.outputs))}
        self._wanted_ids = (ctypes.c_int32 * len(self._wanted))(*self._wanted)

    def _shape(self, value: int) -> tuple[int, int, int, int]:
        """(S, C, H, W) of a value."""
        v = self.plan.values[value]
        return self.slots, v.channels, v.height, v.width

    # -- frames ----------------------------------------------------------------------------------

    def advance(self, frame: Tensor, counts: Counts) -> tuple[dict[int, Tensor], Counts]:
        with torch.inference_mode(False):  # ordinary tensors: the caller may write to them
            made = {v: memory.empty(*shape) for v, shape in self._wanted.items()}
        read = memory.readable(frame, torch.float32)
        cut = self._run(read, self.schedule.due(counts.age).tolist(), made)
        shares = self._counts_by_conv.index_select(0, self._rows) / self._outputs
        return made, counts.after(shares.transpose(1, 2), cut)

    def _run(self, frame: Tensor, due: list[bool], made: dict[int, Tensor]) -> Tensor | None:
        """One frame into ``made``; returns which slots were cut, (S,), where any can be."""
        slots = (ctypes.c_uint8 * self.slots)(*due)
        pointers = (Floats * len(made))(
            *(memory.address(made[v], torch.float32, s) for v, s in self._wanted.items())
        )
        cut = self.schedule.cut
        status = self._library.skp_run(
            self._handle,
            memory.address(frame, torch.float32, self._shape(0)),
            slots,
            -1.0 if cut is None else cut,
            len(made),
            ctypes.cast(self._wanted_ids, Ints),
            pointers,
        )
        if status == Status.no_memory:
            self.broken = True  # some layers may have been computed
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
        if cut is None:
            return None
        return torch.tensor([s == Slot.cut for s in slots], dtype=torch.bool, device="cpu")

    # -- masks -----------------------------------------------------------------------------------

    def opened(self) -> dict[str, Tensor]:
        return {name: blocks.bool() for name, blocks in self._opened.items()}

    @torch.inference_mode()
    def impose(self, masks: Imposed | None) -> None:
        names = {number: name for name, number in self._gated.items()}
        for i in range(len(self._convs)):
            mask = None if masks is None else masks.on(names.get(i), self._grid(i)[1:])
            if mask is not None:
                mask = memory.readable(mask, torch.uint8)
            pointer = None if mask is None else memory.address(mask, torch.uint8, self._grid(i))
            self._library.skp_set_mask(self._handle, i, pointer)  # which copies it

    def _open_blocks(self, conv: int) -> Tensor:
        """A view of a convolution's mask in the last frame, (S, Hb, Wb) uint8."""
        flat = self._buffer(conv, BufferKind.open)
        assert flat is not None
        return flat.view(self._grid(conv))

    def _grid(self, conv: int) -> tuple[int, int, int]:
        """(S, Hb, Wb) of a convolution."""
        struct = self._convs[conv]
        grid = blocks_of((struct.oh, struct.ow), (struct.block_h, struct.block_w))
        return self.slots, *grid

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

    def state_memory(self) -> StateMemory:
        return StateMemory(self.state_bytes, self._conv_bytes())

    def maps(self) -> dict[int, Tensor]:
        return {v: self.map(v).clone() for v in self._used}

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

    def _buffer(self, conv: int, kind: IntEnum) -> Tensor | None:
        return _memory(self._library.skp_conv_buffer(self._handle, conv, int(kind)))

    # -- moving ----------------------------------------------------------------------------------

    def buffers(self) -> dict[str, Any]:
        layers: dict[str, dict[str, Tensor]] = {}
        for name, i in self._gated.items():
            op = self.layers[name]
            # What is held has no memory of its own where the output map is what is held.
            fields = {k.name: self._buffer(i, k) for k in _KEPT} | {
                "memory": self._buffer(i, BufferKind.z),
                "z": self.map(op.output),
            }
            layers[str(op.key)] = {k: v for k, v in fields.items() if v is not None}
        frame = _memory(self._library.skp_last_frame(self._handle))
        assert frame is not None
        maps = {v: self.map(v) for v in self._used}
        return {"last_frame": frame, "maps": maps, "layers": layers}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "precision": self.precision}

    def check_state(self, state: dict[str, Any]) -> None:
        super().check_state(state)
        if state["precision"] != self.precision:
            raise ValueError(
                f"the state is in precision {state['precision']!r}, this stream computes in "
                f"{self.precision!r}"
            )

    def loaded(self) -> None:
        self._library.skp_begin(self._handle)


def _memory(buffer: Any) -> Tensor | None:
    """A view of a buffer's bytes."""
    if not buffer.data or not buffer.bytes:
        return None
    return memory.view(buffer.data, torch.uint8, buffer.bytes)
