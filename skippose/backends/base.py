"""What a stream asks of a backend, and which backends there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skippose.layers import SkipConv2d, gated_layers, module_names
from skippose.ops.schedule import Schedule
from skippose.report import Report


def not_finite(frame: Tensor) -> ValueError | None:
    """What to raise for a frame with NaN or Inf in it, None for a good one."""
    if bool(torch.isfinite(frame).all()):
        return None
    bad = [s for s in range(frame.shape[0]) if not bool(torch.isfinite(frame[s]).all())]
    return ValueError(f"the frame has NaN or Inf in slots {bad}; no state was changed")


def imposed_mask(
    cells: Tensor | Mapping[Any, Tensor] | None, key: Any, slots: int, grid: tuple[int, int]
) -> Tensor | None:
    """What :meth:`Backend.fix_masks` imposes on a layer: (S, Hb, Wb); None where its gate is asked.

    Args:
        cells: as given there.
        key: the layer's.
        slots: S.
        grid: its (rows, columns) of blocks.
    """
    if cells is None or isinstance(cells, Mapping):
        return None if cells is None else cells.get(key)
    at = [
        (2 * torch.arange(n, dtype=torch.long, device=cells.device) + 1) * size // (2 * n)
        for n, size in zip(grid, cells.shape, strict=True)
    ]
    return cells[at[0][:, None], at[1]].expand(slots, *grid)


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

    def fix_masks(self, cells: Tensor | Mapping[Any, Tensor] | None) -> None:
        """Opens what lies in these cells instead of asking the gates: for benchmarks.

        Args:
            cells: (rows, columns) bool, dividing the frame; a block is open if its centre lies in
                a True cell. Or what :meth:`masks` gave, each gated layer's own. None asks the
                gates again.
        """
        raise NotImplementedError(f"backend {self.name!r} has no fixed masks")

    def masks(self) -> dict[Any, Tensor]:
        """The blocks that opened in the last frame, by layer: (S, Hb, Wb) bool, copies."""
        raise NotImplementedError(f"backend {self.name!r} does not tell its masks")

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, from which :meth:`load_state_dict` goes on; copies."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of the same backend; the stream discards the backend if it fails.

        Raises:
            ValueError: for a state of another network.
        """


_BACKENDS: dict[str, Callable[[], type[Backend]]] = {}
"""From the one that ``'auto'`` prefers; imported when asked for."""


def _backend(name: str, module: str, attribute: str) -> None:
    _BACKENDS[name] = lambda: getattr(import_module(module), attribute)


_backend("native", "skippose.backends.native.backend", "NativeBackend")
_backend("torch", "skippose.backends.torch_blocks.backend", "BlocksBackend")
_backend("eager", "skippose.backends.eager.backend", "EagerBackend")

BACKENDS = ("auto", *_BACKENDS)


def backends(backend: str, options: Sequence[str]) -> list[type[Backend]]:
    """The backends to try, in order.

    Args:
        backend: a name, or ``'auto'``.
        options: names of the options that are wanted.

    Raises:
        ValueError: for an unknown backend, one that is not available here, or one without such an
            option.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
    found = []
    for name, load in _BACKENDS.items():
        if backend not in ("auto", name):
            continue
        kind = load()
        reason = kind.unavailable()
        if reason is None and set(options) <= kind.options:
            found.append(kind)
        elif backend != "auto":
            raise ValueError(
                f"backend {name!r} is not available: {reason}"
                if reason
                else f"backend {name!r} has no {', '.join(options)}"
            )
    if not found:
        raise ValueError(f"no backend that is available here has {', '.join(options)}")
    return found


def unavailable() -> list[str]:
    """What ``'auto'`` would prefer but cannot run here, and why."""
    found = []
    for name, load in _BACKENDS.items():
        reason = load().unavailable()
        if reason is not None:
            found.append(f"not {name!r}: {reason}")
    return found


def kind_of(layer: SkipConv2d) -> dict[str, object]:
    """What decides which fields a gated layer's state has, their shapes and meaning."""
    assert layer.gate is not None
    geometry = ("in_channels", "kernel_size", "stride", "padding", "dilation")
    return (
        {"reference": layer.reference}
        | {k: getattr(layer, k) for k in geometry}
        | layer.gate.state_kind()
    )


def check_layers(net: nn.Module, state: dict[str, Any], calls: set[str] | None = None) -> None:
    """Whether saved layers are those of this network.

    Args:
        net: the network.
        calls: ``name#call`` of all gated layers that the network calls, where that is known.
        state: with ``gates`` (:func:`kind_of` by layer name) and ``layers`` (by ``name#call``, each
            with the tensor ``z``, (S, O, ...)).

    Raises:
        ValueError: naming the first layer that differs.
    """
    names, gated = set(module_names(net).values()), gated_layers(net)
    for key, tensors in state["layers"].items():
        name = key.rpartition("#")[0]
        if name not in names:
            raise ValueError(f"the state has a layer {name!r} that the network lacks")
        if name not in gated:
            raise ValueError(f"the state has gated layer {key!r}; the network's has no gate")
        found, expected = tensors["z"].shape[1], gated[name].out_channels
        if found != expected:
            raise ValueError(
                f"the state of layer {key!r} has {found} channels, the network's layer {expected}"
            )
    for name, kind in state["gates"].items():
        if name not in gated:
            raise ValueError(f"the state has gated layer {name!r}; the network has no such one")
        mine = kind_of(gated[name])
        if kind != mine:
            fields = [k for k in mine | kind if mine.get(k) != kind.get(k)]
            theirs, ours = ({k: of.get(k) for k in fields} for of in (kind, mine))
            raise ValueError(f"the state of layer {name!r} is of {theirs}, the layer has {ours}")
    # Not those in ``layers``: an auxiliary head may have a gate and not be called.
    missing = gated.keys() - state["gates"].keys()
    if missing:
        raise ValueError(f"the state lacks gated layers of the network: {sorted(missing)[:5]}")
    if calls is not None and calls != state["layers"].keys():
        differ = sorted(calls ^ state["layers"].keys())
        raise ValueError(f"either the state or the network, not both, has the calls {differ[:5]}")


def copy_saved(pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> None:
    """Writes what was saved into a backend's own memory: all of it, or nothing.

    Args:
        pairs: saved tensors and where they belong; None for what one side lacks.

    Raises:
        ValueError: if something is lacking, or of another shape or dtype.
    """
    whole = []
    for saved, mine in pairs:
        if saved is None or mine is None or (saved.shape, saved.dtype) != (mine.shape, mine.dtype):
            raise ValueError(
                "the state is of a network with other layers, or made by another version"
            )
        whole.append((saved, mine))
    for saved, mine in whole:
        mine.copy_(saved)
