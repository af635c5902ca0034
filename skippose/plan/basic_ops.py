"""What each of torch's basic operations is in a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skippose.ops import ConvGeometry, Convolution
from skippose.ops.geometry import accumulation_dtype
from skippose.plan.errors import Unsupported
from skippose.plan.plan import (
    Activation,
    Concat,
    ConvTranspose,
    Flatten,
    FuseSum,
    GlobalPool,
    Linear,
    Mul,
    Pointwise,
    Pool,
    Upsample,
)

if TYPE_CHECKING:
    from skippose.plan.recorder import Recorder


def _pair(values: Sequence[int] | int) -> tuple[int, int]:
    values = [values] if isinstance(values, int) else list(values)
    return (values[0], values[-1])


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(what)


def _convolution(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    x, weight, bias = rec.value(a["input"]), a["weight"], a["bias"]
    _require(rec.id_of(weight) is None and out.dim() == 4, "only 2-D, with constant weights")
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
        rec.convolution(x, out, key, Convolution(weight, bias, geometry))
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


def _batch_norm(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
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
) -> Callable[[Recorder, dict[str, Any], Tensor], None]:
    """A handler; ``low`` and ``high`` are numbers or names of arguments."""

    def handle(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
        bounds = [a[b] if isinstance(b, str) else b for b in (low, high)]
        for b in bounds:
            number = not isinstance(b, Tensor) or (b.numel() == 1 and rec.id_of(b) is None)
            _require(number, "bounds that are no numbers")
        infinite = (-torch.inf, torch.inf) if kind == "clamp" else (0.0, 0.0)
        bounds = [i if b is None else float(b) for b, i in zip(bounds, infinite, strict=True)]
        act, x = Activation(kind, *bounds), rec.value(a["self"])
        rec.add_op(out, lambda v: Pointwise((x,), v, activation=act))

    return handle


def _add(sign: int) -> Callable[[Recorder, dict[str, Any], Tensor], None]:
    def handle(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
        x, y = rec.id_of(a["self"]), rec.id_of(a["other"])
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


def _affine(rec: Recorder, x: Tensor, scale: Any, shift: Any, factor: float, out: Tensor) -> None:
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


def _mul(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    x, y = rec.id_of(a["self"]), rec.id_of(a["other"])
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


def _div(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require(rec.id_of(a["other"]) is None, "a division by a map")
    other = a["other"]
    inverse = (
        1 / other.to(accumulation_dtype(other.dtype)) if isinstance(other, Tensor) else 1 / other
    )
    _affine(rec, a["self"], inverse, 0.0, 1.0, out)


def _neg(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    _affine(rec, a["self"], -1.0, 0.0, 1.0, out)


def _pool(kind: Any) -> Callable[[Recorder, dict[str, Any], Tensor], None]:
    def handle(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
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


def _mean(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    x, dims = (
        a["self"],
        sorted(d % a["self"].dim() for d in (a.get("dim") or range(a["self"].dim()))),
    )
    _require(
        x.dim() == 4 and dims == [2, 3], f"a mean over the dimensions {dims}, not rows and columns"
    )
    value = rec.value(x)
    rec.add_op(out, lambda v: GlobalPool((value,), v))


def _adaptive(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require(tuple(out.shape[2:]) == (1, 1), "adaptive pooling to more than 1x1")
    value = rec.value(a["self"])
    rec.add_op(out, lambda v: GlobalPool((value,), v))


def _upsample(mode: Any) -> Callable[[Recorder, dict[str, Any], Tensor], None]:
    def handle(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
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


def _concat(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require((a["dim"] or 0) % out.dim() == 1, f"concatenation along dimension {a['dim']}")
    inputs = tuple(rec.value(t) for t in a["tensors"])
    rec.add_op(out, lambda v: Concat(inputs, v))


def _view(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
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


def _addmm(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    _require((a.get("beta") in (None, 1)) and (a.get("alpha") in (None, 1)), "beta or alpha")
    _linear(rec, a["mat1"], a["mat2"], a["self"], out)


def _mm(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    _linear(rec, a["self"], a["mat2"], None, out)


def _linear(rec: Recorder, x: Tensor, transposed: Tensor, bias: Tensor | None, out: Tensor) -> None:
    value = rec.value(x)
    _require(rec.id_of(transposed) is None and rec.id_of(bias) is None, "no constant weights")
    exact = accumulation_dtype(transposed.dtype)
    base = transposed._base if transposed._base is not None else transposed
    key = rec.key_of(base)
    weight = transposed.detach().t().to(exact).contiguous()
    shift = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().to(exact)
    rec.add_op(out, lambda v: Linear((value,), v, key=key, weight=weight, bias=shift))


def _identity(rec: Recorder, a: dict[str, Any], out: Tensor) -> None:
    rec.same(a["self"], out)


HANDLERS: dict[str, Callable[[Recorder, dict[str, Any], Tensor], None]] = {
    "convolution": _convolution,
    "batch_norm": _batch_norm,
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
