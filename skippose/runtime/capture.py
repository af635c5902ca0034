"""From a network to a plan: one forward pass is recorded, then fused.

The pass runs under a dispatch mode, which sees the same few basic operations whatever Python code
called them, control flow and all; gated layers report themselves, with their name and call number.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from skippose.gates import OutputNormGate
from skippose.layers import SkipConv2d, count_macs, gated_pass
from skippose.ops import ConvGeometry, Convolution
from skippose.ops.geometry import accumulation_dtype, autocasts
from skippose.report import LayerCost
from skippose.runtime.backends import BackendError
from skippose.runtime.fuse import fuse
from skippose.runtime.plan import (
    Activation,
    Concat,
    Conv,
    ConvTranspose,
    Flatten,
    FuseSum,
    GlobalPool,
    Key,
    Linear,
    Mul,
    Op,
    Plan,
    Pointwise,
    Pool,
    Upsample,
    Value,
    with_levels,
)


class CaptureError(BackendError):
    """A network that is more than a flat list of known operations; says what of it."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: the network cannot be captured; Stream(net, backend='eager') runs any network"
        )


_cache: weakref.WeakKeyDictionary[nn.Module, dict[Any, Plan]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def capture(net: nn.Module, frame: Tensor) -> Plan:
    """The plan of a network for frames like this one; plans are shared between streams.

    Weights are folded into it: a network whose weights have changed in place gets another one.

    Args:
        net: a network with gated layers, in evaluation mode.
        frame: (S, C, H, W); S is of no consequence.

    Raises:
        CaptureError: for what has no place in a plan, named.
    """
    key = (tuple(frame.shape[1:]), frame.dtype, frame.device)
    signature = _signature(net)
    with _lock:
        plans = _cache.setdefault(net, {})
        if plans.get("signature") != signature:
            plans.clear()
            plans["signature"] = signature  # type: ignore[assignment]
        if key not in plans:
            plans[key] = _capture(net, frame)
        return plans[key]


def _signature(net: nn.Module) -> tuple[object, ...]:
    """Changes when a weight is replaced or written to, or a layer's gate."""
    tensors = [*net.parameters(), *net.buffers()]
    gates = [
        (id(m.gate), repr(m.gate), m.reference) for m in net.modules() if isinstance(m, SkipConv2d)
    ]
    return (
        tuple((t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors),
        tuple(gates),
    )


def _capture(net: nn.Module, frame: Tensor) -> Plan:
    if autocasts(frame):
        raise CaptureError("autocast is on, and captured networks compute in one precision")
    for name, module in net.named_modules():
        hooks = [h for h in module._forward_hooks.values() if h is not count_macs]
        if hooks or module._forward_pre_hooks:
            raise CaptureError(f"module {name!r} has forward hooks, which a plan would not call")
    recorder = _Recorder(net)
    # Outside of inference mode, in which composite operations would not be taken apart.
    with torch.inference_mode(False), torch.no_grad():
        x = frame[:1].detach().clone()
        recorder.begin(x)
        with recorder, gated_pass(recorder):
            output = net(x)
    leaves, tree = pytree.tree_flatten(output)
    outputs = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or id(leaf) not in recorder.ids:
            raise CaptureError(f"an output is no function of the frame: {type(leaf).__name__}")
        outputs.append(recorder.ids[id(leaf)])
    ops = fuse(recorder.ops, recorder.values, outputs)
    ordered = with_levels(ops, recorder.decider)
    decider = [
        i for i, o in enumerate(ordered) if isinstance(o, Conv) and o.key == recorder.decider
    ]
    return Plan(
        values=tuple(recorder.values),
        ops=ordered,
        outputs=tuple(outputs),
        tree=tree,
        costs=tuple(recorder.costs),
        decider=decider[0] if decider else None,
        dtype=frame.dtype,
        device=frame.device,
    )


class _Recorder(TorchDispatchMode):
    """Records the operations between the frame and the outputs, as a pass that is gated."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.ids: dict[int, int] = {}
        self.costs: list[LayerCost] = []
        self.decider: Key | None = None
        self._names = {module: name for name, module in net.named_modules()}
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

    def _id(self, tensor: Any) -> int | None:
        return self.ids.get(id(tensor)) if isinstance(tensor, Tensor) else None

    # -- a gated pass ----------------------------------------------------------------------------

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        """A layer that may have a gate."""
        value = self._id(x)
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
        gated, gain = None, 1.0
        cost = LayerCost(label, locations * layer.macs_per_location)
        if gate is not None:
            gated = layer.gated(self._frame_size, x.shape[-2], x.shape[-1])
            self.decider = self.decider or key
            cost = LayerCost(
                label,
                cost.macs,
                gate_macs=locations * gate.macs_per_output(layer),
                additions=locations * gate.additions_per_output(layer),
                gated=True,
            )
            if isinstance(gate, OutputNormGate):
                self._paused = True
                gain = float(gate.gain(conv))
                self._paused = False
        self._convolution(value, z, key, conv, gated, gain, self._cost(cost))
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

    def _convolution(
        self,
        x: int,
        z: Tensor,
        key: Key,
        conv: Convolution,
        gated: Any = None,
        gain: float = 1.0,
        cost: int | None = None,
    ) -> None:
        self._paused = True
        exact = accumulation_dtype(conv.weight.dtype)
        weight = conv.weight.detach().to(exact)
        bias = weight.new_zeros(weight.shape[0])
        if conv.bias is not None:
            bias = conv.bias.detach().to(exact)
        self._paused = False
        self.ops.append(
            Conv(
                (x,),
                self._define(z),
                key=key,
                geometry=conv.geometry,
                weight=weight,
                bias=bias,
                gated=gated,
                gain=gain,
                cost=cost,
            )
        )

    # -- basic operations ------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self._paused:
            return out
        reads = [t for t in pytree.tree_flatten((args, kwargs))[0] if self._id(t) is not None]
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
        handler = _HANDLERS.get(name)
        if handler is None and "batch_norm" in name:
            handler = _batch_norm
        if handler is None:
            raise CaptureError(
                f"operation {func}, after {self._last()}, is not one that plans have"
            )
        self._paused = True
        try:
            handler(self, named, result)
        except _Unsupported as error:
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
        found = self._id(tensor)
        if found is None:
            raise _Unsupported("the frame's values are not where they are expected")
        return found

    def add_op(self, result: Tensor, make: Callable[[int], Op]) -> None:
        """Appends an operation that writes ``result``."""
        self.ops.append(make(self._define(result)))

    def same(self, tensor: Tensor, result: Tensor) -> None:
        """``result`` is another name of a value."""
        self.ids[id(result)] = self.value(tensor)
        self._alive.append(result)

    def key_of(self, weight: Tensor) -> Key:
        """The layer that a weight belongs to, and its call."""
        return self._next(self._owners.get(id(weight), f"layer{len(self.ops)}"))


class _Unsupported(Exception):
    """Raised by handlers; says what of an operation's arguments has no place in a plan."""


def _arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name, defaults included."""
    named = {}
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args):
            named[argument.name] = args[i]
        else:
            named[argument.name] = kwargs.get(argument.name, argument.default_value)
    return named


def _pair(values: Sequence[int] | int) -> tuple[int, int]:
    values = [values] if isinstance(values, int) else list(values)
    return (values[0], values[-1])


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _Unsupported(what)


def _convolution(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    x, weight, bias = rec.value(a["input"]), a["weight"], a["bias"]
    _require(rec._id(weight) is None and out.dim() == 4, "only 2-D, with constant weights")
    key, exact = rec.key_of(weight), accumulation_dtype(weight.dtype)
    top, left = _pair(a["padding"])
    if not a["transposed"]:
        geometry = ConvGeometry(
            (weight.shape[2], weight.shape[3]),
            _pair(a["stride"]),
            (left, left, top, top),
            _pair(a["dilation"]),
            a["groups"],
        )
        rec._convolution(x, out, key, Convolution(weight, bias, geometry))
        return
    channels = weight.shape[1] * a["groups"]
    rec.add_op(
        out,
        lambda v: ConvTranspose(
            (x,),
            v,
            key=key,
            weight=weight.detach().to(exact),
            bias=weight.new_zeros(channels, dtype=exact) if bias is None else bias.to(exact),
            stride=_pair(a["stride"]),
            padding=(top, left),
            output_padding=_pair(a["output_padding"]),
            groups=a["groups"],
            dilation=_pair(a["dilation"]),
        ),
    )


def _batch_norm(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    training = a.get("training", a.get("train", False))
    _require(not training, "batch norm in training mode")
    mean, var = (a.get(k) for k in ("running_mean", "running_var"))
    _require(mean is not None and var is not None, "batch norm without running statistics")
    assert mean is not None and var is not None
    exact = accumulation_dtype(var.dtype)
    scale = (var.to(exact) + a.get("eps", a.get("epsilon"))).rsqrt()
    if a["weight"] is not None:
        scale = scale * a["weight"].to(exact)
    shift = -mean.to(exact) * scale
    if a["bias"] is not None:
        shift = shift + a["bias"].to(exact)
    x = rec.value(a["input"])
    rec.add_op(out, lambda v: Pointwise((x,), v, affine=(scale, shift)))


def _activation(
    kind: Any, low: Any = 0.0, high: Any = 0.0
) -> Callable[[_Recorder, dict[str, Any], Tensor], None]:
    """A handler; ``low`` and ``high`` are numbers or names of arguments."""

    def handle(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
        bounds = [a[b] if isinstance(b, str) else b for b in (low, high)]
        infinite = (-torch.inf, torch.inf) if kind == "clamp" else (0.0, 0.0)
        bounds = [i if b is None else float(b) for b, i in zip(bounds, infinite, strict=True)]
        act, x = Activation(kind, *bounds), rec.value(a["self"])
        rec.add_op(out, lambda v: Pointwise((x,), v, activation=act))

    return handle


def _add(sign: int) -> Callable[[_Recorder, dict[str, Any], Tensor], None]:
    def handle(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
        x, y = rec._id(a["self"]), rec._id(a["other"])
        factor = sign * (1 if a["alpha"] is None else a["alpha"])
        if x is not None and y is not None:
            _require(factor == 1, "a difference or multiple of two maps")
            _require(a["self"].shape == a["other"].shape, "maps of different sizes")
            rec.add_op(out, lambda v: FuseSum((x, y), v, factors=((1, 1), (1, 1))))
        elif x is not None:
            _affine(rec, a["self"], 1.0, a["other"], factor, out)
        else:
            _require(factor in (1, -1), "a multiple of a map")
            _affine(rec, a["other"], float(factor), a["self"], 1.0, out)

    return handle


def _affine(rec: _Recorder, x: Tensor, scale: Any, shift: Any, factor: float, out: Tensor) -> None:
    """``scale · x + factor · shift`` with numbers or per-channel constants."""
    _require(x.shape == out.shape, "a constant that is larger than the map")
    channels, exact = x.shape[1], accumulation_dtype(x.dtype)

    def per_channel(constant: Any) -> Tensor:
        if not isinstance(constant, Tensor):
            return torch.full((channels,), float(constant), dtype=exact, device=x.device)
        shape = [1] * (x.dim() - constant.dim()) + list(constant.shape)
        _require(
            constant.numel() == 1 or (shape[1] == channels == constant.numel()),
            f"a constant of shape {tuple(constant.shape)}, which is not one per channel",
        )
        return constant.detach().to(exact).reshape(-1).expand(channels).clone()

    a, b = per_channel(scale), per_channel(shift) * factor
    if bool((a == 1).all()) and bool((b == 0).all()):
        rec.same(x, out)
    else:
        value = rec.value(x)
        rec.add_op(out, lambda v: Pointwise((value,), v, affine=(a, b)))


def _mul(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    x, y = rec._id(a["self"]), rec._id(a["other"])
    if x is None or y is None:
        value, constant = (a["self"], a["other"]) if y is None else (a["other"], a["self"])
        _affine(rec, value, constant, 0.0, 1.0, out)
        return
    for tensor in (a["self"], a["other"]):
        whole = tensor.shape == out.shape
        _require(
            whole or (tensor.shape[:2] == out.shape[:2] and tensor[0, 0].numel() == 1),
            f"maps of shapes {tuple(a['self'].shape)} and {tuple(a['other'].shape)}",
        )
    rec.add_op(out, lambda v: Mul((x, y), v))


def _div(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require(rec._id(a["other"]) is None, "a division by a map")
    other = a["other"]
    inverse = (
        1 / other.to(accumulation_dtype(other.dtype)) if isinstance(other, Tensor) else 1 / other
    )
    _affine(rec, a["self"], inverse, 0.0, 1.0, out)


def _neg(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    _affine(rec, a["self"], -1.0, 0.0, 1.0, out)


def _pool(kind: Any) -> Callable[[_Recorder, dict[str, Any], Tensor], None]:
    def handle(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
        kernel = _pair(a["kernel_size"])
        top, left = _pair(a["padding"])
        stride = _pair(a["stride"]) if a["stride"] else kernel
        geometry = ConvGeometry(
            kernel, stride, (left, left, top, top), _pair(a.get("dilation") or 1)
        )
        x = rec.value(a["self"])
        rec.add_op(
            out,
            lambda v: Pool(
                (x,),
                v,
                kind=kind,
                geometry=geometry,
                ceil_mode=bool(a["ceil_mode"]),
                count_include_pad=bool(a.get("count_include_pad", True)),
                divisor=a.get("divisor_override"),
            ),
        )

    return handle


def _mean(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    x, dims = (
        a["self"],
        sorted(d % a["self"].dim() for d in (a.get("dim") or range(a["self"].dim()))),
    )
    _require(
        x.dim() == 4 and dims == [2, 3], f"a mean over the dimensions {dims}, not rows and columns"
    )
    value = rec.value(x)
    rec.add_op(out, lambda v: GlobalPool((value,), v))


def _adaptive(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require(tuple(out.shape[2:]) == (1, 1), "adaptive pooling to more than 1x1")
    value = rec.value(a["self"])
    rec.add_op(out, lambda v: GlobalPool((value,), v))


def _upsample(mode: Any) -> Callable[[_Recorder, dict[str, Any], Tensor], None]:
    def handle(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
        scales: Any = (a.get("scales_h"), a.get("scales_w"))
        if a.get("scale_factors"):
            scales = tuple(a["scale_factors"])
        x = rec.value(a["input"] if "input" in a else a["self"])
        rec.add_op(
            out,
            lambda v: Upsample(
                (x,),
                v,
                mode=mode,
                align_corners=bool(a.get("align_corners")),
                scales=None if None in scales else scales,
            ),
        )

    return handle


def _concat(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require((a["dim"] or 0) % out.dim() == 1, f"concatenation along dimension {a['dim']}")
    inputs = tuple(rec.value(t) for t in a["tensors"])
    rec.add_op(out, lambda v: Concat(inputs, v))


def _view(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    x = a["self"]
    if x.shape == out.shape:
        rec.same(x, out)
        return
    _require(
        out.dim() == 2 and out.shape[0] == 1,
        f"a view of {tuple(x.shape)} as {tuple(out.shape)}, which is no flatten",
    )
    value = rec.value(x)
    rec.add_op(out, lambda v: Flatten((value,), v))


def _addmm(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require((a.get("beta") in (None, 1)) and (a.get("alpha") in (None, 1)), "beta or alpha")
    _linear(rec, a["mat1"], a["mat2"], a["self"], out)


def _mm(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    _linear(rec, a["self"], a["mat2"], None, out)


def _linear(
    rec: _Recorder, x: Tensor, transposed: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    value = rec.value(x)
    _require(rec._id(transposed) is None and rec._id(bias) is None, "no constant weights")
    exact = accumulation_dtype(transposed.dtype)
    base = transposed._base if transposed._base is not None else transposed
    key = rec.key_of(base)
    weight = transposed.detach().t().to(exact).contiguous()
    shift = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().to(exact)
    rec.add_op(out, lambda v: Linear((value,), v, key=key, weight=weight, bias=shift))


def _identity(rec: _Recorder, a: dict[str, Any], out: Tensor) -> None:
    rec.same(a["self"], out)


_HANDLERS: dict[str, Callable[[_Recorder, dict[str, Any], Tensor], None]] = {
    "convolution": _convolution,
    "relu": _activation("relu"),
    "hardtanh": _activation("clamp", "min_val", "max_val"),
    "clamp": _activation("clamp", "min", "max"),
    "clamp_min": _activation("clamp", "min", torch.inf),
    "relu6": _activation("clamp", 0.0, 6.0),
    "leaky_relu": _activation("leaky_relu", "negative_slope"),
    "hardswish": _activation("hardswish"),
    "hardsigmoid": _activation("hardsigmoid"),
    "sigmoid": _activation("sigmoid"),
    "silu": _activation("silu"),
    "tanh": _activation("tanh"),
    "add": _add(1),
    "sub": _add(-1),
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "max_pool2d_with_indices": _pool("max"),
    "max_pool2d": _pool("max"),
    "avg_pool2d": _pool("avg"),
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive,
    "_adaptive_avg_pool2d": _adaptive,
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "cat": _concat,
    "view": _view,
    "_unsafe_view": _view,
    "addmm": _addmm,
    "mm": _mm,
    "alias": _identity,
    "detach": _identity,
    "clone": _identity,
}
