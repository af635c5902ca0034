"""What all backends that run a captured plan have in common: everything but running a frame."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from skippose.backends.base import Backend
from skippose.backends.masks import Imposed, Mask, blocks_of
from skippose.backends.saved_state import check_layers, copies, copy_saved, kinds_of, leaves
from skippose.ops.schedule import Schedule
from skippose.plan.capture import capture
from skippose.plan.op import Key
from skippose.plan.operators.conv import Conv
from skippose.plan.plan import Plan
from skippose.report import Report, StateMemory


class Counts(NamedTuple):
    """How old the slots are and what their frames have cost; a value, replaced frame by frame.

    All of it on the device of the plan, so that counting waits for no device.

    Attributes:
        age: (S,) int64, frames since each slot began or was last cut; 0 begins with the next one.
        counted: (S,) int64, frames that the report is a mean over.
        first: (S,) int64, first frames, which it leaves out.
        sums: (L, 2) float64, by gated layer, sums over counted frames of the share of outputs that
            were computed, and of those that the gate looked at.
    """

    age: Tensor
    counted: Tensor
    first: Tensor
    sums: Tensor

    @classmethod
    def none(cls, slots: int, layers: int, device: torch.device) -> Counts:
        """Before the first frame."""
        none = torch.zeros(slots, dtype=torch.int64, device=device)
        sums = torch.zeros((layers, 2), dtype=torch.float64, device=device)
        return cls(none, none.clone(), none.clone(), sums)

    def after(self, shares: Tensor | None, begun: Tensor | None = None) -> Counts:
        """After one more frame of each slot.

        Args:
            shares: (L, 2, S) float64, in the order of :attr:`Plan.gated`; None where nothing was
                computed or looked at.
            begun: (S,) bool, slots that a cut began anew; None for none of them.
        """
        counts = self.age > 0
        sums = self.sums if shares is None else self.sums + (shares * counts).sum(-1)
        age = self.age if begun is None else torch.where(begun, 0, self.age)
        return Counts(age + 1, self.counted + counts, self.first + ~counts, sums)


class PlanBackend(Backend):
    """A backend that captures the network and runs its plan.

    This class has the plan, the slots' ages, counts and report, the saved state, and the masks that
    are imposed. A subclass has the memory that frames are computed in, and gives :meth:`advance`,
    :meth:`opened`, :meth:`impose` and :meth:`buffers`.

    Attributes:
        plan: the captured network.
        slots: S.
        layers: the plan's gated convolutions, by their names in reports and masks.
        names: the same names by key.
        broken: whether a frame failed after something was written to. A subclass that writes to
            its memory in :meth:`advance` sets it before; it is taken back with the frame done.
    """

    form: ClassVar[str]
    """What a saved state holds; another form under the same name is refused."""
    foreign_state: ClassVar[str] = "the state was made by another version of this backend"
    """What is said of a state of another form."""

    @torch.inference_mode()
    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        self.net, self.schedule = net, schedule
        self.plan: Plan = capture(net, frame)
        self.slots = frame.shape[0]
        self.layers: dict[str, Conv] = {}
        for op in self.plan.gated:
            assert op.cost is not None, "gated layers are counted"
            self.layers[self.plan.costs[op.cost].name] = op
        self.names: dict[Key, str] = {op.key: name for name, op in self.layers.items()}
        self.broken = False
        self._counts = Counts.none(self.slots, len(self.layers), self.plan.device)

    # -- what a subclass gives -------------------------------------------------------------------

    @abstractmethod
    def advance(self, frame: Tensor, counts: Counts) -> tuple[dict[int, Tensor], Counts]:
        """Computes one frame of each slot; called in inference mode.

        Slots of which ``self.schedule.due(counts.age)`` is True are computed in full.

        Args:
            frame: (S, C, H, W).
            counts: before the frame; ages tell which slots begin.

        Returns:
            The plan's outputs by value, (S, C, H, W), each in memory that nobody writes to again
            (:func:`owned` makes such a tensor); and the counts after the frame.
        """

    @abstractmethod
    def opened(self) -> dict[str, Tensor]:
        """Where the layers computed in the last frame: (S, Hb, Wb) bool by name, copies."""

    @abstractmethod
    def impose(self, masks: Imposed | None) -> None:
        """Takes these masks instead of asking the gates; None asks them again."""

    @abstractmethod
    def buffers(self) -> dict[str, Any]:
        """All that is kept between frames, ages apart: views, in dictionaries of dictionaries.

        Under ``layers`` each gated call has its fields by ``name#call``, among them ``z``,
        (S, O, ...). A saved state has copies of all these, and is written into them.
        """

    def maps(self) -> dict[int, Tensor]:
        """Values of the plan as the last frame left them, (S, C, H, W) by number; copies."""
        raise NotImplementedError(f"backend {self.name!r} does not keep the plan's values")

    def state_memory(self) -> StateMemory | None:
        """What is kept between frames, for the report, where this is known."""
        return None

    def loaded(self) -> None:
        """The buffers have been written to: what was derived from them is to be forgotten."""

    @property
    def unsure(self) -> bool:
        """Whether the state is one to begin anew from elsewhere: a saved one has ages of 0 then."""
        return self.broken

    # -- frames ----------------------------------------------------------------------------------

    def step(self, frame: Tensor) -> Any:
        if self.broken:
            warnings.warn(
                "a frame failed while it was being computed; this one is dense in all slots",
                stacklevel=5,
            )
            self.forget(range(self.slots))
        made = self._advance(frame)
        outputs = [self.plan.values[v].as_output(made[v]) for v in self.plan.outputs]
        return pytree.tree_unflatten(outputs, self.plan.tree)

    @torch.inference_mode()
    def _advance(self, frame: Tensor) -> dict[int, Tensor]:
        made, self._counts = self.advance(frame, self._counts)
        self.broken = False
        return made

    @property
    def age(self) -> Tensor:
        """(S,) int64, frames since each slot began or was last cut; a copy, on the CPU."""
        return self._counts.age.to("cpu", copy=True)

    @torch.inference_mode()
    def forget(self, slots: Sequence[int]) -> None:
        self._counts.age[list(slots)] = 0

    def report(self) -> Report:
        counts = self._counts
        frames, first = int(counts.counted.sum()), int(counts.first.sum())
        rows = [replace(row, density_sum=float(frames)) for row in self.plan.costs]
        for op, (computed, looked) in zip(self.plan.gated, counts.sums.tolist(), strict=True):
            if op.cost is not None:
                row = replace(rows[op.cost], density_sum=computed, gate_density_sum=looked)
                rows[op.cost] = row
        return Report(tuple(rows), frames, first, self.state_memory())

    # -- masks -----------------------------------------------------------------------------------

    def masks(self) -> dict[str, Mask]:
        opened = self.opened()
        return {
            name: Mask(opened[name], op.block, self.size_of(op)) for name, op in self.layers.items()
        }

    def fix_masks(self, masks: Tensor | Mapping[str, Mask] | None) -> None:
        if masks is None:
            return self.impose(None)
        grids = {name: blocks_of(self.size_of(op), op.block) for name, op in self.layers.items()}
        return self.impose(Imposed(masks, grids, self.slots, self.plan.device))

    def size_of(self, op: Conv) -> tuple[int, int]:
        """(H', W') of a convolution."""
        return self.plan.values[op.output].size

    # -- moving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "age": torch.zeros_like(self.age) if self.unsure else self.age,
            "gates": kinds_of(self.net),
            **copies(self.buffers()),
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("form") != self.form:
            raise ValueError(self.foreign_state)
        self.check_state(state)
        buffers = {"age": self._counts.age, **self.buffers()}
        mine, saved = leaves(buffers), leaves({k: state[k] for k in buffers if k in state})
        copy_saved((saved.get(path), mine.get(path)) for path in dict.fromkeys((*mine, *saved)))
        self.loaded()

    def check_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a saved state of another network."""
        check_layers(self.net, state, self.plan.calls)


def owned(tensor: Tensor) -> Tensor:
    """A copy that the caller of a stream may write to and differentiate with."""
    with torch.inference_mode(False):
        return tensor.clone()
