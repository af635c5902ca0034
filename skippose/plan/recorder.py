"""One forward pass of a network, recorded.

The pass runs under a dispatch mode, which sees the same few basic operations whatever Python code
called them, control flow and all; gated layers report themselves, with their name and call number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from skippose.layers import SkipConv2d, module_names
from skippose.ops import Convolution
from skippose.plan.errors import CaptureError, Unsupported
from skippose.plan.op import Key, Op, Value
from skippose.plan.operators.conv import Conv
from skippose.plan.registry import TRACES
from skippose.report import LayerCost


class Recorder(TorchDispatchMode):
    """Records the operations between the frame and the outputs, as a pass that is gated."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.ids: dict[int, int] = {}
        self.costs: list[LayerCost] = []
        self.decider: Key | None = None
        self._names = module_names(net)
        self._owners = {
            id(p): name for name, m in self._names_of_weights() for p in m.parameters(recurse=False)
        }
        self._alive: list[Tensor] = []  # so that no id or memory is used twice
        self._calls: dict[object, int] = {}
        self._frame_size: tuple[int, int] | None = None
        self._paused = False

    def _names_of_weights(self) -> list[tuple[str, nn.Module]]:
        return [(name, module) for module, name in self._names.items()]

    # -- values ----------------------------------------------------------------------------------

    def begin(self, frame: Tensor) -> None:
        """The frame is value 0."""
        self._define(frame)

    def _define(self, tensor: Tensor) -> int:
        if tensor.dim() not in (2, 4) or tensor.shape[0] != 1:
            raise CaptureError(
                f"a tensor of shape {tuple(tensor.shape)} after {self._last()}; known are maps "
                "(S, C, H, W) and features (S, F)"
            )
        channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
        value = Value(len(self.values), channels, height, width, flat=tensor.dim() == 2)
        self.values.append(value)
        self.ids[id(tensor)] = value.id
        self._alive.append(tensor)
        return value.id

    def _last(self) -> str:
        return f"operation {len(self.ops)} ({self.ops[-1].label})" if self.ops else "the frame"

    def id_of(self, tensor: Any) -> int | None:
        """A tensor's id, None if it is no value."""
        return self.ids.get(id(tensor)) if isinstance(tensor, Tensor) else None

    # -- a gated pass ----------------------------------------------------------------------------

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        """A layer that may have a gate."""
        value = self.id_of(x)
        name = self._name(layer)
        if value is None:
            raise CaptureError(f"layer {name!r} reads something that is no function of the frame")
        if x.dim() != 4:
            raise CaptureError(f"layer {name!r} got {tuple(x.shape)}, not images (S, C, H, W)")
        self._frame_size = self._frame_size or (x.shape[-2], x.shape[-1])
        key = self._next(name)
        conv, gate = Convolution.of(layer), layer.gate
        conv.geometry.out_size(x.shape[-2], x.shape[-1])  # an input too small is an error
        self._paused = True
        try:
            z = layer.dense(x)
        finally:
            self._paused = False
        locations = z.shape[-2] * z.shape[-1]
        label = name + (f"#{key.call}" if key.call else "")
        gated = None
        cost = LayerCost(label, locations * layer.macs_per_location)
        if gate is not None:
            if gate.always_open or gate.samples:
                raise CaptureError(f"the gate of layer {name!r} is in training mode")
            gated = layer.gated(self._frame_size, x.shape[-2], x.shape[-1])
            self._paused = True
            _ = gated.spec  # now, and not within whatever traces the plan
            self._paused = False
            self.decider = self.decider or key
            cost = LayerCost(
                label,
                cost.macs,
                gate_macs=locations * gate.macs_per_output(layer),
                additions=locations * gate.additions_per_output(layer),
                gated=True,
            )
        row = self._cost(cost)
        self._paused = True
        self.add(z, lambda v: Conv.of((value,), v, key, conv, gated, row))
        self._paused = False
        return z

    def count_dense(self, layer: nn.Module, x: Tensor, macs: int) -> None:
        """A layer without a gate, after it ran."""
        if self._frame_size is None and isinstance(layer, nn.Conv2d):
            self._frame_size = (x.shape[-2], x.shape[-1])
        name = self._name(layer)
        number = self._calls.get(("cost", name), 0)
        self._calls["cost", name] = number + 1
        self._cost(LayerCost(name + (f"#{number}" if number else ""), macs))

    def repeat_draw(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Random layers draw in training only."""
        raise CaptureError(f"module {self._name(layer)!r} is in training mode")

    def _name(self, layer: nn.Module) -> str:
        if layer not in self._names:
            raise CaptureError(f"{layer} ran but is not part of the network")
        return self._names[layer]

    def _next(self, name: str) -> Key:
        number = self._calls.get(name, 0)
        self._calls[name] = number + 1
        return Key(name, number)

    def _cost(self, cost: LayerCost) -> int:
        self.costs.append(cost)
        return len(self.costs) - 1

    # -- basic operations ------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self._paused:
            return out
        reads = [t for t in pytree.tree_flatten((args, kwargs))[0] if self.id_of(t) is not None]
        if not reads:
            return out  # a constant
        named = _arguments(func, args, kwargs)
        name = func._schema.name.partition("::")[2]
        result = out[0] if isinstance(out, tuple | list) else out
        if not isinstance(result, Tensor):
            raise CaptureError(f"{func} takes a number out of a tensor, after {self._last()}")
        in_place = name.endswith("_") and not name.startswith("_")
        if in_place:
            self._check_alone(result, func)
        name = name.rstrip("_")
        handler = TRACES.get(name)
        if handler is None:
            raise CaptureError(
                f"operation {func}, after {self._last()}, is not one that plans have"
            )
        self._paused = True
        try:
            handler(self, named, result)
        except Unsupported as error:
            raise CaptureError(f"operation {func}, after {self._last()}: {error}") from error
        finally:
            self._paused = False
        if in_place and self.ids.get(id(args[0])) != self.ids.get(id(result)):
            self.ids[id(args[0])] = self.ids[id(result)]
        return out

    def _check_alone(self, tensor: Tensor, func: Any) -> None:
        storage = tensor.untyped_storage().data_ptr()
        for other in self._alive:
            if other is not tensor and other.untyped_storage().data_ptr() == storage:
                raise CaptureError(f"{func} writes into a tensor that another one is a view of")

    def value(self, tensor: Any) -> int:
        """A tensor's id, which must be a value."""
        found = self.id_of(tensor)
        if found is None:
            raise Unsupported("the frame's values are not where they are expected")
        return found

    def add(self, result: Tensor, make: Callable[[int], Op]) -> None:
        """Appends an operation that writes ``result``."""
        self.ops.append(make(self._define(result)))

    def same(self, tensor: Tensor, result: Tensor) -> None:
        """``result`` is another name of a value."""
        self.ids[id(result)] = self.value(tensor)
        self._alive.append(result)

    def key_of(self, weight: Tensor) -> Key:
        """The layer that a weight belongs to, and its call."""
        return self._next(self._owners.get(id(weight), f"layer{len(self.ops)}"))


def _arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name, defaults included."""
    named = {}
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args):
            named[argument.name] = args[i]
        else:
            named[argument.name] = kwargs.get(argument.name, argument.default_value)
    return named
