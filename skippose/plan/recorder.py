"""One forward pass of a network, recorded.

The pass runs under a dispatch mode, which sees the same few basic operations whatever Python code
called them, control flow and all; gated layers report themselves, with their name and call number.
What depends on the frame is a :class:`FrameTensor`, and every operation on one is recorded or
refused: everything else is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from skippose.layers import SkipConv2d, active_pass, module_names
from skippose.ops import Convolution
from skippose.plan.constants import Constants, tensors
from skippose.plan.errors import CaptureError, Unsupported
from skippose.plan.frame_tensor import FrameTensor, frame_tensors, plain
from skippose.plan.op import Key, Op, Value
from skippose.plan.operators.conv import Conv
from skippose.plan.registry import TRACES
from skippose.plan.signature import Signature, signature_of
from skippose.report import LayerCost


class Recorder(TorchDispatchMode):
    """Records the operations between the frame and the outputs, as a pass that is gated.

    Attributes:
        ops: the operations, as they ran.
        values: the maps between them; the frame is the first.
        outputs: ids of those that the network returned, in the order of ``tree``.
        tree: how they are nested.
        costs: of all layers, in the order of their calls.
        constants: what does not depend on the frame.
        decider: the first gated call.
        refused: why the network cannot be captured, if so: an error that a network's own
            ``except`` may have swallowed.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.outputs: tuple[int, ...] = ()
        self.tree: Any = None
        self.ids: dict[int, int] = {}
        self.costs: list[LayerCost] = []
        self.decider: Key | None = None
        self.refused: CaptureError | None = None
        self._names = module_names(net)
        self._owners = {
            id(p): name for name, m in self._names_of_weights() for p in m.parameters(recurse=False)
        }
        # By memory and id, so that neither is used twice.
        self._alive: dict[int, dict[int, FrameTensor]] = {}
        self._maps: dict[int, Tensor] = {}
        self.constants = Constants(net)
        self._calls: dict[object, int] = {}
        self._kind = ""
        self._frame_size: tuple[int, int] | None = None
        self._paused = False
        self._ended = False

    def _names_of_weights(self) -> list[tuple[str, nn.Module]]:
        return [(name, module) for module, name in self._names.items()]

    @property
    def watching(self) -> bool:
        """See :class:`~skippose.plan.frame_tensor.Watch`."""
        return not (self._paused or self._ended)

    def refuse(self, what: str, why: str) -> CaptureError:
        """Likewise."""
        error = CaptureError(f"{what}, after {self.last}: {why}")
        self.refused = self.refused or error
        return error

    # -- values ----------------------------------------------------------------------------------

    def begin(self, frame: Tensor) -> Tensor:
        """What to give the network for the frame, (1, C, H, W): value 0."""
        made, self._kind = self._stand_in(frame, "the frame"), _kind(frame)
        self._define(made)
        return made

    def end(self, output: Any) -> None:
        """The network returned this."""
        leaves, self.tree = pytree.tree_flatten(output)
        for leaf in leaves:
            if isinstance(leaf, FrameTensor):
                self._known(leaf, "an output")
            else:
                raise self.refuse(
                    f"an output of type {type(leaf).__name__}", "it is no function of the frame"
                )
        self.outputs = tuple(self.ids[id(leaf)] for leaf in leaves)

    def __exit__(self, *error: Any) -> None:
        self._ended = True  # tensors that the network has put aside are ordinary ones from now on
        super().__exit__(*error)

    def forget(self) -> None:
        """Lets go of the values themselves; operations and constants stay."""
        self.ids, self._alive, self._maps = {}, {}, {}
        self.constants.forget()

    def map_of(self, value: int) -> Tensor | None:
        """A value in this pass, (1, C, H, W); None where the network has written over it."""
        found = self._maps.get(value)
        return found[:, :, None, None] if found is not None and found.dim() == 2 else found

    def _stand_in(self, tensor: Tensor, origin: str) -> FrameTensor:
        return FrameTensor.of(tensor, origin, self)

    def _define(self, tensor: Tensor) -> int:
        assert isinstance(tensor, FrameTensor)
        if tensor.dim() not in (2, 4) or tensor.shape[0] != 1:
            raise self.refuse(
                f"a tensor of shape {tuple(tensor.shape)}",
                "known are maps (S, C, H, W) and features (S, F)",
            )
        channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
        value = Value(len(self.values), channels, height, width, flat=tensor.dim() == 2)
        self.values.append(value)
        self._maps[value.id] = tensor.plain
        self._name_value(tensor, value.id)
        return value.id

    def _name_value(self, tensor: FrameTensor, value: int) -> None:
        if (found := _kind(tensor)) != self._kind:
            raise self.refuse(f"a tensor of {found}", f"plans have one kind, here {self._kind}")
        self.ids[id(tensor)] = value
        self._sharing(tensor)[id(tensor)] = tensor

    def _sharing(self, tensor: FrameTensor) -> dict[int, FrameTensor]:
        """All tensors with the memory of this one."""
        return self._alive.setdefault(tensor.plain.untyped_storage()._cdata, {})

    @property
    def last(self) -> str:
        """The operation before, for errors."""
        return f"operation {len(self.ops)} ({self.ops[-1].label})" if self.ops else "the frame"

    def id_of(self, tensor: Any) -> int | None:
        """A tensor's id, None if it is no value."""
        return self.ids.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def _known(self, tensor: FrameTensor, who: str) -> int:
        """The id of a tensor that ``who`` reads, which must be a value of this pass."""
        if not tensor.made_by(self):
            raise self.refuse(who, f"it is or reads {tensor.origin} of an earlier frame")
        found = self.id_of(tensor)
        if found is None:
            raise self.refuse(who, f"it is or reads {tensor.origin}, which plans do not have")
        return found

    # -- a gated pass ----------------------------------------------------------------------------

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        """A layer that may have a gate."""
        name = self._name(layer)
        if not isinstance(x, FrameTensor):
            raise self.refuse(f"layer {name!r}", "it reads what is no function of the frame")
        value = self._known(x, f"layer {name!r}")
        if x.dim() != 4:
            raise self.refuse(f"layer {name!r}", f"it got {tuple(x.shape)}, not (S, C, H, W)")
        self._frame_size = self._frame_size or (x.shape[-2], x.shape[-1])
        key = self._next(name)
        conv, gate = Convolution.of(layer), layer.gate
        if frame_tensors((conv.weight, conv.bias)):
            raise self.refuse(f"layer {name!r}", "its weights depend on the frame")
        conv.geometry.out_size(x.shape[-2], x.shape[-1])  # an input too small is an error
        self._paused = True
        try:
            z = self._stand_in(layer.dense(x.plain), f"the output of layer {name!r}")
        finally:
            self._paused = False
        locations = z.shape[-2] * z.shape[-1]
        label = name + (f"#{key.call}" if key.call else "")
        gated = None
        cost = LayerCost(label, locations * layer.macs_per_location)
        if gate is not None:
            if gate.always_open or gate.samples:
                raise self.refuse(f"the gate of layer {name!r}", "it is in training mode")
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
        weight, bias = self.constants.settled((conv.weight, conv.bias))
        conv = replace(conv, weight=weight, bias=bias)
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
        raise self.refuse(f"module {self._name(layer)!r}", "it is in training mode")

    def _name(self, layer: nn.Module) -> str:
        if layer not in self._names:
            raise self.refuse(f"{layer}", "it ran but is not part of the network")
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
        if self._paused:
            return func(*plain(args), **plain(kwargs))
        reads = frame_tensors((args, kwargs))
        signature = signature_of(func)
        named, in_place = signature.named(args, kwargs), signature.in_place
        # Whatever is refused is refused before it has written anywhere.
        self._check(func, signature, named, reads)
        if not reads:
            made = func(*args, **kwargs)
            self.constants.note(() if signature.fresh else (args, kwargs), made)
            return made
        handler = TRACES.get(signature.name.rstrip("_"))
        if handler is None:
            number = "it takes a number out of a tensor"
            raise self.refuse(
                f"operation {func}", "plans do not have it" if signature.gives_tensor else number
            )
        if in_place:
            self._check_alone(args[0], func)
            self._maps.pop(self.ids[id(args[0])], None)
        made = func(*plain(args), **plain(kwargs))
        if in_place:
            out = result = args[0]
        else:
            several = isinstance(made, tuple | list)
            results = [
                self._stand_in(t, f"output {i} of {func}") if isinstance(t, Tensor) else t
                for i, t in enumerate(made if several else [made])
            ]
            result, out = results[0], tuple(results) if several else results[0]
        self._paused = True
        try:
            handler(self, self.constants.settled(named), result)
        except Unsupported as error:
            self._paused = False
            raise self.refuse(f"operation {func}", str(error)) from error
        finally:
            self._paused = False
        return out

    def _check(
        self, func: Any, signature: Signature, named: dict[str, Any], reads: list[FrameTensor]
    ) -> None:
        """Refuses what would make a constant depend on the frame, or on frames before it."""
        who = f"operation {func}"
        if signature.draws:
            raise self.refuse(who, "it is random, and a plan would repeat one draw")
        if any(named[mode] for mode in signature.modes):
            raise self.refuse(who, "it runs in training mode")
        for tensor in reads:
            self._known(tensor, who)
        for target in tensors([named[name] for name in signature.writes]):
            if isinstance(target, FrameTensor):
                if not signature.in_place or target is not next(iter(named.values())):
                    raise self.refuse(who, "it writes into a tensor of the frame, as with out=")
            elif reads:
                raise self.refuse(who, "it writes what depends on the frame into a constant")
            elif not self.constants.made(target):
                raise self.refuse(
                    who,
                    f"it writes into {self.constants.owner(target)}, which was there before the "
                    "frame, and plans keep no such state",
                )

    def _check_alone(self, tensor: FrameTensor, func: Any) -> None:
        if len(self._sharing(tensor)) > 1:
            raise self.refuse(
                f"operation {func}", "it writes into a tensor that another one is a view of"
            )

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
        assert isinstance(result, FrameTensor)
        self._name_value(result, self.value(tensor))

    def key_of(self, weight: Tensor) -> Key:
        """The layer that a weight belongs to, and its call."""
        return self._next(self._owners.get(id(weight), f"layer{len(self.ops)}"))


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} on {tensor.device}"


def recording() -> Recorder | None:
    """The pass around this call, where that is a recorded one."""
    run = active_pass()
    return run if isinstance(run, Recorder) else None
