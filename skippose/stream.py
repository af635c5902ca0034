"""Frame after frame: ``stream = Stream(net); stream(frame)``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from operator import attrgetter, index
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from skippose.backends.base import Backend, not_finite
from skippose.backends.masks import Mask
from skippose.backends.registry import backend_names, candidates, unavailable
from skippose.layers import SkipConv2d, active_pass
from skippose.layers.network import original, require_gated
from skippose.one_at_a_time import OneAtATime
from skippose.ops.schedule import Schedule
from skippose.plan.errors import BackendError, CaptureError
from skippose.plan.recorder import Recorder
from skippose.report import Report

STATE_VERSION = 1

_training = attrgetter("training")
_said: set[str] = set()


class Stream:
    """A gated network on video, one frame at a time, for one or several videos side by side.

    The state lives here and not in the network: any number of streams, in any number of threads,
    share one network. One stream is for one thread at a time: while a call, :meth:`reset`,
    :meth:`report`, :meth:`masks`, :meth:`fix_masks`, :meth:`state_dict` or :meth:`load_state_dict`
    runs, any other of them raises RuntimeError. A frame that is refused leaves the stream as it
    was.

    The captured backends read the network when a video begins: after changing it, call
    :meth:`reset`. What they do not see even then, as a ``forward`` that was replaced, is said at
    :func:`skippose.plan.capture.capture`.

    Args:
        net: a network with :class:`SkipConv2d` layers, in evaluation mode. Of one that
            ``torch.compile`` wrapped, the network inside is run.
        backend: ``'native'``: the network is captured once and run by compiled kernels on a CPU,
            in float32 or bfloat16; ``'torch'``: captured too, in plain torch. Both touch only the
            blocks that changed. ``'eager'``: the network's own modules, each in its step form: any
            network, correct rather than fast. ``'auto'`` takes the first of these that can run the
            network, and says so once where that is not the first. Others go by the names that
            :func:`skippose.backends.register_backend` was given.
        cut: where the first gated layer's density exceeds this, the slot begins anew.
        refresh_every: frames 1, 1 + k, ... of a slot are computed in full.
        precision: ``'float32'`` or ``'bfloat16'``, for ``'native'``; the others compute in the
            network's.
        threads: of ``'native'``; the others use torch's.

    Raises:
        ValueError: for an unknown backend, a network without gated layers, a bad cut or refresh,
            or an option that the backend does not have.
    """

    def __init__(
        self,
        net: nn.Module,
        backend: str = "auto",
        cut: float | None = None,
        refresh_every: int | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        given = {"precision": precision, "threads": threads}
        self._options = {k: v for k, v in given.items() if v is not None}
        try:
            self._candidates = candidates(backend, list(self._options))
        except ValueError as error:
            if self._options and backend in backend_names():
                raise ValueError(
                    f"{error} (got {self._options}): convert the network itself, or set torch's "
                    "threads"
                ) from None
            raise
        require_gated(net)
        self.net = net = original(net)
        self.schedule = Schedule(refresh_every, cut)
        self._skipping = [m for m in net.modules() if isinstance(m, SkipConv2d)]
        self._auto = backend == "auto"
        self._backend: Backend | None = None
        self._computed = False  # a frame, since the backend was made
        self._frame: tuple[tuple[int, ...], torch.dtype, torch.device] | None = None
        self._past = Report()
        self._alone = OneAtATime("a stream")

    @property
    def slots(self) -> int | None:
        """Videos side by side: the first frame's batch; None before it."""
        return None if self._frame is None else self._frame[0][0]

    @property
    def backend(self) -> str | None:
        """The backend that runs; None before the first frame."""
        return None if self._backend is None else self._backend.name

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Any:
        """The network's output for one frame of each slot.

        Args:
            frame: (S, C, H, W); S, size, dtype and device are fixed by the first frame.

        Raises:
            ValueError: for a frame unlike those before, or one with NaN or Inf; with the first
                frame, for a network that the chosen backend cannot run, or none of whose gated
                layers runs (where some do not, they are named in a warning).
            RuntimeError: if the network is in training mode, or calls its layers differently from
                frame to frame; and if another thread, or the network itself, is using the stream.
        """
        with self._alone:
            return self._step(frame)

    def _step(self, frame: Tensor) -> Any:
        if isinstance(active_pass(), Recorder):
            raise CaptureError("the network uses a stream, which remembers what a plan does not")
        self._check(frame)
        if self._backend is not None:
            output = self._backend.step(frame)
            self._computed = True
            return output
        backend = self._make(frame)
        output = backend.step(frame)
        try:
            self._past + backend.report()
        except ValueError:  # after reset(), a video of another size: its report begins anew
            self._past = Report()
        self._backend, self._computed = backend, True
        self._frame = (tuple(frame.shape), frame.dtype, frame.device)
        return output

    def _make(self, frame: Tensor) -> Backend:
        """The first backend that can run the network."""
        reasons = unavailable() if self._auto else []
        for kind in self._candidates:
            try:
                backend = kind.make(self.net, frame, self.schedule, **self._options)
            except BackendError as error:
                if not self._auto:
                    error.args = (f"{error}; Stream(net, backend='eager') runs any network",)
                    raise
                reasons.append(f"not {kind.name!r}: {error}")
                continue
            if backend.notice is not None:
                reasons.append(backend.notice)
            if reasons and (message := "; ".join(reasons)) not in _said:
                _said.add(message)
                warnings.warn(
                    f"{type(self.net).__name__} streams with backend {kind.name!r}; {message}",
                    stacklevel=5,
                )
            return backend
        raise ValueError("no backend can run this network: " + "; ".join(reasons))

    def _check(self, frame: Tensor) -> None:
        if not isinstance(frame, Tensor) or frame.dim() != 4:
            found = tuple(frame.shape) if isinstance(frame, Tensor) else type(frame).__name__
            raise ValueError(f"a frame is a tensor (S, C, H, W), got {found}")
        if not frame.numel():
            raise ValueError(f"a frame has no dimension of 0, got {tuple(frame.shape)}")
        if self._frame is not None:
            now: tuple[object, ...] = (tuple(frame.shape), frame.dtype, frame.device)
            for what, seen, expected in zip(
                ("shape", "dtype", "device"), now, self._frame, strict=True
            ):
                if seen != expected:
                    raise ValueError(
                        f"the frame's {what} is {seen}, the stream's is {expected}; call "
                        "reset() before a video of another kind"
                    )
        if self.net.training or any(map(_training, self._skipping)):
            raise RuntimeError("the network is in training mode; call net.eval() before streaming")
        if self._backend is not None and self._backend.checks_values:
            return
        error = not_finite(frame)
        if error is not None:
            raise error

    def reset(self, slots: Iterable[int] | None = None) -> None:
        """Begins anew: the given slots' next frame is dense; all slots and any size by default.

        Raises:
            ValueError: for a slot that does not exist, or what is no slot's number, as a mask.
            RuntimeError: while the stream is used elsewhere.
        """
        with self._alone:
            self._reset(slots)

    def _reset(self, slots: Iterable[int] | None) -> None:
        if slots is None:
            self._past = self._report()
            self._backend = self._frame = None
            self._computed = False
            return
        chosen = [_number(slot) for slot in slots]
        count = self.slots or 0
        wrong = [s for s in chosen if not 0 <= s < count]
        if wrong:
            raise ValueError(f"no such slots: {wrong}; the stream has {count}")
        if self._backend is not None:
            self._backend.forget(chosen)

    def report(self) -> Report:
        """MACs and densities over all slots, since the stream was made.

        A video of another size, whose layers take other MACs, begins the report anew.

        Raises:
            RuntimeError: while the stream is used elsewhere.
        """
        with self._alone:
            return self._report()

    def _report(self) -> Report:
        return self._past if self._backend is None else self._past + self._backend.report()

    def masks(self) -> dict[str, Mask]:
        """Where each gated layer computed in the last frame.

        Returns:
            By the layers' names in the report, copies: a mask's ``opened`` is (S, Hb, Wb) bool, a
            value for each ``block`` of (rows, columns) outputs; ``size`` is (H', W'), the outputs.
            Slots that were computed in full are open everywhere.

        Raises:
            ValueError: before the first frame, also after a state was loaded, or of a backend
                that does not know.
            RuntimeError: while the stream is used elsewhere.
        """
        with self._alone:
            if self._backend is None or not self._computed:
                raise ValueError(
                    "no frame was computed yet, so that there are no masks; give the stream a "
                    "frame first"
                )
            return self._backend.masks()

    def fix_masks(self, masks: Tensor | Mapping[str, Mask] | None) -> None:
        """Imposes masks: from the next frame on these places are computed, and no gate is asked.

        This measures what computing costs apart from deciding, or at a share of the network that
        is chosen. Slots that begin are computed in full all the same. :meth:`reset` of all slots
        takes the masks away.

        Args:
            masks: (rows, columns) bool, cells that divide the frame: a block is computed if its
                centre lies in a True cell. Or masks by layer, as :meth:`masks` of a stream of as
                many slots gives them; a layer that is not among them asks its gate. None: gates
                are asked again.

        Raises:
            ValueError: before the first frame, for masks that do not fit, or of a backend that
                does not impose any; nothing has changed then.
            RuntimeError: while the stream is used elsewhere.
        """
        with self._alone:
            if self._backend is None:
                raise ValueError(
                    "masks are imposed after the first frame; give the stream a frame first"
                )
            self._backend.fix_masks(masks)

    def __reduce__(self) -> NoReturn:
        """For copy and pickle: memory that backends share with compiled code has no copy."""
        raise TypeError(
            "a stream cannot be copied or pickled; make another over the same network and give its "
            "load_state_dict what state_dict() of this one gives"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything a stream over the same network needs to go on elsewhere.

        Tensors and plain values, for ``torch.save``. ``backend`` names the backend that it is for:
        a stream with ``backend='auto'`` takes that one up.

        Raises:
            RuntimeError: while the stream is used elsewhere.
        """
        with self._alone:
            if self._backend is None or self._frame is None:
                return {"version": STATE_VERSION, "frame": None}
            shape, dtype, device = self._frame
            return {
                "version": STATE_VERSION,
                "backend": {"name": self._backend.name, "version": self._backend.version},
                "frame": {"shape": shape, "dtype": dtype, "device": str(device)},
                **self._backend.state_dict(),
            }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken; the stream is unchanged if that fails.

        Raises:
            ValueError: for a state of another version, backend or network.
            RuntimeError: while the stream is used elsewhere.
        """
        with self._alone:
            self._load(state_dict)

    def _load(self, state_dict: dict[str, Any]) -> None:
        version = state_dict.get("version")
        if version != STATE_VERSION:
            raise ValueError(f"a stream state of version {version!r}; this is version 1")
        if state_dict["frame"] is None:
            self._reset(None)
            return
        made_by = state_dict.get("backend", {"name": "eager", "version": 1})
        names = [kind.name for kind in self._candidates]
        if made_by["name"] not in names:
            raise ValueError(
                f"a state of backend {made_by['name']!r}, this stream's is "
                f"{' or '.join(map(repr, names))}; make it with backend={made_by['name']!r}"
            )
        kind = self._candidates[names.index(made_by["name"])]
        if made_by["version"] != kind.version:
            raise ValueError(
                f"a state of backend {kind.name!r} in version {made_by['version']!r}; this is "
                f"version {kind.version}"
            )
        device = self._skipping[0].weight.device
        saved = state_dict["frame"]
        like = torch.zeros(saved["shape"], dtype=saved["dtype"], device=device)
        backend = kind.make(self.net, like, self.schedule, **self._options)
        backend.load_state_dict(state_dict)
        past = self._report()
        try:
            past + backend.report()
        except ValueError:
            past = Report()
        self._past, self._backend, self._computed = past, backend, False
        self._frame = (tuple(like.shape), like.dtype, like.device)


def _number(slot: Any) -> int:
    """A slot's number. Booleans are integers too: a mask would be read as slots 0 and 1."""
    if not isinstance(slot, bool) and getattr(slot, "dtype", None) != torch.bool:
        try:
            return index(slot)
        except TypeError:
            pass
    raise ValueError(f"slots are given by their numbers, got {slot!r}")
