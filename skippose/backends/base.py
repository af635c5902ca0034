"""What a stream asks of a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skippose.backends.masks import Mask
from skippose.ops.schedule import Schedule
from skippose.plan.errors import BackendError
from skippose.report import Report


def not_finite(frame: Tensor) -> ValueError | None:
    """What to raise for a frame with NaN or Inf in it, None for a good one."""
    if bool(torch.isfinite(frame).all()):
        return None
    bad = [s for s in range(frame.shape[0]) if not bool(torch.isfinite(frame[s]).all())]
    return ValueError(f"the frame has NaN or Inf in slots {bad}; no state was changed")


class Backend(ABC):
    """Runs one network on frames of one kind, and keeps the state of their slots.

    Made with the first frame (or one like it, from a saved state) and used for frames of its shape,
    dtype and device only. The stream has checked a frame before it comes here: shape, dtype,
    device, evaluation mode, and, unless the backend ``checks_values``, no NaN or Inf.

    Args:
        net: the network.
        frame: (S, C, H, W), of which shape, dtype and device count; not yet the first frame.
        schedule: which frames are dense.
        **options: those named in ``options``, where the stream was given them.

    Raises:
        BackendError: if this backend cannot run this network or such frames.
    """

    name: ClassVar[str]
    """What a stream's ``backend`` and its saved states call it."""
    preference: ClassVar[float | None] = None
    """Where it stands for ``'auto'``, which tries the largest first; None: used by name only.
    ``native`` has 30, ``torch`` 20, and ``eager``, which runs any network, 10."""
    version: ClassVar[int] = 1
    """Of the backend's saved states."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Which of ``precision`` and ``threads`` it takes."""
    notice: str | None = None
    """What a user should be told of how it runs this network; the stream says it once."""
    checks_values: ClassVar[bool] = False
    """Whether :meth:`step` refuses NaN and Inf itself, with :func:`not_finite`'s error."""

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot run anything here, or None."""
        return None

    @classmethod
    def make(cls, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> Backend:
        """This backend, or the one that serves under its name for such frames; see the class."""
        return cls(net, frame, schedule, **options)

    @abstractmethod
    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        """See the class."""

    @abstractmethod
    def step(self, frame: Tensor) -> Any:
        """The network's output for one frame of each slot, in memory of its own.

        A failure leaves state and report as they were; or, where state was already written to, the
        next frame is dense in all slots, with a warning.
        """

    @abstractmethod
    def forget(self, slots: Sequence[int]) -> None:
        """Begins these slots anew with their next frame."""

    @abstractmethod
    def report(self) -> Report:
        """Costs of all frames so far."""

    def masks(self) -> dict[str, Mask]:
        """Where the gated layers computed in the last frame, by the names of the report; copies.

        Raises:
            BackendError: if this backend does not know.
        """
        raise BackendError(f"backend {self.name!r} does not tell its masks")

    def fix_masks(self, masks: Tensor | Mapping[str, Mask] | None) -> None:
        """Computes in these places instead of asking the gates, from the next frame on.

        Slots that begin are computed in full all the same.

        Args:
            masks: (rows, columns) bool, cells that divide the frame: a block is open if its centre
                lies in a True cell. Or masks by layer, as :meth:`masks` gives them; a layer that
                is not among them asks its gate. None asks the gates again.

        Raises:
            BackendError: if this backend cannot.
            ValueError: for masks that do not fit; nothing has changed then.
        """
        raise BackendError(
            f"backend {self.name!r} does not impose masks; Stream(net, backend='torch') does"
        )

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, from which :meth:`load_state_dict` goes on; copies."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of the same backend; the stream discards the backend if it fails.

        Raises:
            ValueError: for a state of another network.
        """
