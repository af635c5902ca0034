"""Frame after frame: ``stream = Stream(net); stream(frame)``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from skippose.frames_pass import Call, FramesPass, NetState
from skippose.layers import SkipConv2d, gated_pass
from skippose.ops import SkipState
from skippose.ops.schedule import Schedule
from skippose.report import Report

BACKENDS = ("auto", "eager")


class Stream:
    """A gated network on video, one frame at a time, for one or several videos side by side.

    The state lives here and not in the network: any number of streams, in any number of threads,
    share one network. A frame's state takes the place of the last one only when the whole frame
    went through, so a failure leaves the stream as it was.

    Args:
        net: a network with :class:`SkipConv2d` layers, in evaluation mode.
        backend: ``'eager'``: the network's own modules, each in its step form; any network,
            correct rather than fast. ``'auto'`` picks the fastest there is, today ``'eager'``.
        cut: where the first gated layer's density exceeds this, the slot begins anew.
        refresh_every: frames 1, 1 + k, ... of a slot are computed in full.
        precision: computation dtype of fast engines; the eager one takes that of the network.
        threads: of fast engines; the eager one uses torch's.

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
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
        for option, value in (("precision", precision), ("threads", threads)):
            if value is not None:
                raise ValueError(
                    f"the eager backend has no {option}= (got {value!r}): convert the network "
                    "itself, or set torch's threads"
                )
        if not any(isinstance(m, SkipConv2d) and m.gate is not None for m in net.modules()):
            raise ValueError(
                f"{type(net).__name__} has no gated convolution; make it one with skippose.convert"
            )
        self.net = net
        self.schedule = Schedule(refresh_every, cut)
        self._state: NetState | None = None
        self._frame: tuple[tuple[int, ...], torch.dtype, torch.device] | None = None
        self._calls: list[Call] | None = None
        self._report = Report()

    @property
    def slots(self) -> int | None:
        """Videos side by side: the first frame's batch; None before it."""
        return None if self._frame is None else self._frame[0][0]

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Any:
        """The network's output for one frame of each slot.

        Args:
            frame: (S, C, H, W); S, size, dtype and device are fixed by the first frame.

        Raises:
            ValueError: for a frame unlike those before, or one with NaN or Inf.
            RuntimeError: if the network is in training mode, or calls its layers differently from
                frame to frame.
        """
        self._check(frame)
        run = FramesPass(1, self.schedule, self._state, keep_state=True)
        with gated_pass(run):
            output = self.net(frame)
        calls = list(run.records)
        if self._calls is not None and calls != self._calls:
            raise RuntimeError(
                f"the network made {len(calls)} calls of its layers in this frame and "
                f"{len(self._calls)} in the frame before, or in another order; its calls must "
                "not change from frame to frame"
            )
        report = run.report(self.net)
        try:
            report = self._report + report
        except ValueError:
            if self._frame is not None:
                raise
            # After reset(), a video of another size: its report begins anew.
        # Everything went through: commit.
        self._report = report
        self._state, self._calls = run.state, calls
        self._frame = (tuple(frame.shape), frame.dtype, frame.device)
        return output

    def _check(self, frame: Tensor) -> None:
        if not isinstance(frame, Tensor) or frame.dim() != 4:
            found = tuple(frame.shape) if isinstance(frame, Tensor) else type(frame).__name__
            raise ValueError(f"a frame is a tensor (S, C, H, W), got {found}")
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
        if self.net.training or any(
            m.training for m in self.net.modules() if isinstance(m, SkipConv2d)
        ):
            raise RuntimeError("the network is in training mode; call net.eval() before streaming")
        if not bool(torch.isfinite(frame).all()):
            bad = [s for s in range(frame.shape[0]) if not bool(torch.isfinite(frame[s]).all())]
            raise ValueError(f"the frame has NaN or Inf in slots {bad}; no state was changed")

    def reset(self, slots: Iterable[int] | None = None) -> None:
        """Begins anew: the given slots' next frame is dense; all slots and any size by default.

        Raises:
            ValueError: for a slot that does not exist.
        """
        if slots is None:
            self._state = self._frame = self._calls = None
            return
        chosen = list(slots)
        count = self.slots or 0
        wrong = [s for s in chosen if not 0 <= s < count]
        if wrong:
            raise ValueError(f"no such slots: {wrong}; the stream has {count}")
        if self._state is not None:
            age = self._state.age.clone()
            age[chosen] = 0
            self._state = NetState(age, self._state.layers)

    def report(self) -> Report:
        """MACs and densities since the stream was made, over all slots."""
        return self._report

    def state_dict(self) -> dict[str, Any]:
        """Everything a stream over the same network needs to go on elsewhere.

        Tensors and plain values, for ``torch.save``; layers are keyed ``name#call``.
        """
        if self._state is None or self._frame is None or self._calls is None:
            return {"version": 1, "frame": None}
        names = {module: name for name, module in self.net.named_modules()}
        shape, dtype, device = self._frame
        return {
            "version": 1,
            "frame": {"shape": shape, "dtype": dtype, "device": str(device)},
            "age": self._state.age.clone(),
            "gates": {names[c.layer]: _kind(c.layer) for c in self._state.layers},
            "calls": [f"{names[c.layer]}#{c.number}" for c in self._calls],
            "layers": {
                f"{names[call.layer]}#{call.number}": {
                    f.name: value.clone()
                    for f in fields(SkipState)
                    if (value := getattr(state, f.name)) is not None
                }
                for call, state in self._state.layers.items()
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken; the stream is unchanged if that fails.

        Raises:
            ValueError: for a state of another version or of another network.
        """
        if state_dict.get("version") != 1:
            raise ValueError(
                f"a stream state of version {state_dict.get('version')!r}; this is version 1"
            )
        if state_dict["frame"] is None:
            self.reset()
            return
        modules = dict(self.net.named_modules())

        def call_of(key: str) -> Call:
            name, _, index = key.rpartition("#")
            if name not in modules:
                raise ValueError(f"the state has a layer {name!r} that the network lacks")
            return Call(modules[name], int(index))

        calls = [call_of(key) for key in state_dict["calls"]]
        layers = {}
        for key, tensors in state_dict["layers"].items():
            call = call_of(key)
            if not (isinstance(call.layer, SkipConv2d) and call.layer.gate is not None):
                raise ValueError(f"the state has gated layer {key!r}; the network's has no gate")
            expected = call.layer.out_channels
            if tensors["z"].shape[1] != expected:
                raise ValueError(
                    f"the state of layer {key!r} has {tensors['z'].shape[1]} channels, "
                    f"the network's layer {expected}"
                )
            device = call.layer.weight.device
            layers[call] = SkipState(**{k: v.to(device, copy=True) for k, v in tensors.items()})
        gated = {
            name for name, m in modules.items() if isinstance(m, SkipConv2d) and m.gate is not None
        }
        for name, kind in state_dict["gates"].items():
            mine = _kind(modules[name])
            if kind != mine:
                raise ValueError(f"the state of layer {name!r} is of {kind}, the layer is {mine}")
        missing = gated - {key.rpartition("#")[0] for key in state_dict["layers"]}
        if missing:
            raise ValueError(f"the state lacks gated layers of the network: {sorted(missing)[:5]}")
        frame = state_dict["frame"]
        device = next(iter(layers.values())).z.device
        self._state = NetState(state_dict["age"].clone(), layers)
        self._calls = calls
        self._frame = (tuple(frame["shape"]), frame["dtype"], device)


def _kind(layer: nn.Module) -> dict[str, object]:
    """What decides which fields a gated layer's state has, and their shapes."""
    assert isinstance(layer, SkipConv2d) and layer.gate is not None
    settings = layer.gate.settings()
    keys = ("type", "block", "block_mode", "source", "scale")
    return {"reference": layer.reference} | {k: settings[k] for k in keys if k in settings}
