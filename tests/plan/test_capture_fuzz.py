"""Random networks of operators that plans have, against their plans; and with a part none has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import skippose
from skippose import InputNormGate, Stream
from skippose.backends.native.backend import NativeBackend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.ops.schedule import Schedule
from skippose.plan.capture import CaptureError, capture
from skippose.plan.errors import BackendError

torch.set_num_threads(1)

# Few patterns use the layer that is there for them.
pytestmark = pytest.mark.filterwarnings("ignore:.*gated layers of .* did not run")

Size = tuple[int, int, int]
"""(C, H, W) of a map."""


@dataclass(frozen=True)
class Step:
    """A part of a random network: reads maps made before by their number and appends one.

    ``name`` is that of a part in ``PARTS``; ``options`` are what that part was drawn with.
    """

    name: str
    reads: tuple[int, ...]
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """A random network: maps are numbered, the frame is 0, each step makes one more.

    Attributes:
        size: (H, W) of the frame.
        steps: in order.
        also: number of the map that is returned besides the last one.
        seed: of the weights.
    """

    size: tuple[int, int]
    steps: tuple[Step, ...]
    also: int
    seed: int

    def sizes(self) -> list[Size]:
        """Of all maps."""
        found: list[Size] = [(3, *self.size)]
        for step in self.steps:
            found.append(PARTS[step.name].size(*(found[i] for i in step.reads), *step.options))
        return found


class Program(nn.Module):
    """The network that was drawn, with random weights.

    Returns by name the last map, the other one, and a linear function of the last one's means.

    Args:
        drawn: what it does.
        extra: another part, from (C,) to a module that keeps the size.
        after: the step whose result that is given.
    """

    def __init__(
        self, drawn: Drawn, extra: Callable[[int], nn.Module] | None = None, after: int = 0
    ) -> None:
        super().__init__()
        torch.manual_seed(drawn.seed)
        self.drawn, self.after = drawn, after
        sizes = drawn.sizes()
        self.layers = nn.ModuleList()
        for step in drawn.steps:
            layer = PARTS[step.name].layer(*(sizes[i] for i in step.reads), *step.options)
            self.layers.append(layer or nn.Identity())
        self.head = nn.Linear(sizes[-1][0], 2)
        self.extra = extra(sizes[after + 1][0]) if extra is not None else None
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(S, 3, H, W), which may be written to."""
        maps = [x]
        for i, (step, layer) in enumerate(zip(self.drawn.steps, self.layers, strict=True)):
            y = PARTS[step.name].run(self, layer, *(maps[i] for i in step.reads))
            maps.append(self.extra(y) if self.extra is not None and i == self.after else y)
        return {
            "last": maps[-1],
            "also": maps[self.drawn.also],
            "features": self.head(maps[-1].mean((2, 3))),
        }


@dataclass(frozen=True)
class Part:
    """What a step may be.

    Attributes:
        options: what it is drawn with: (size of its first input) to a strategy of tuples.
        size: (sizes of its inputs, *options) to its result's; None where it does not fit.
        layer: likewise to a module, or None.
        run: (network, module, *inputs) to its result.
        second: which other map it reads: (size of the first, that of the other) to bool; or None.
    """

    options: Callable[[Size], st.SearchStrategy]
    size: Callable[..., Size | None]
    layer: Callable[..., nn.Module | None]
    run: Callable[..., Tensor]
    second: Callable[[Size, Size], bool] | None = None


def no_options(size: Size) -> st.SearchStrategy:
    return st.just(())


def nothing(*_: Any) -> None:
    return None


def same_size(size: Size, *_: Any) -> Size:
    return size


def apply(net: Program, layer: nn.Module, *maps: Tensor) -> Tensor:
    return layer(*maps)


PARTS: dict[str, Part] = {}


def _conv_options(size: Size) -> st.SearchStrategy:
    groups = [g for g in (1, 2, size[0]) if size[0] % g == 0]
    return st.tuples(
        st.sampled_from([1, 3]),  # kernel
        st.sampled_from([1, 2]),  # stride
        st.sampled_from([1, 2]),  # dilation
        st.sampled_from(groups),
        st.sampled_from([1, 2]),  # outputs of a group
        st.booleans(),  # whether it has a bias
        # Whether it has a gate, without which torch pads by operations of its own; and how it pads.
        st.sampled_from([(True, "zeros"), (False, "zeros"), (True, "reflect"), (True, "circular")]),
    )


def _conv_size(size: Size, kernel, stride, dilation, groups, outputs, *_) -> Size | None:
    reach = dilation * (kernel - 1) + 1
    padding = reach // 2
    if padding >= min(size[1:]):  # no reflection goes further
        return None
    h, w = ((n + 2 * padding - reach) // stride + 1 for n in size[1:])
    return groups * outputs, h, w


def _conv(size, kernel, stride, dilation, groups, outputs, bias, gate) -> nn.Module:
    padding = (dilation * (kernel - 1) + 1) // 2
    layer = nn.Conv2d(
        *(size[0], groups * outputs, kernel, stride, padding, dilation, groups, bias),
        padding_mode=gate[1],
    )
    layer.wanted = gate[0]
    return layer


PARTS["conv"] = Part(_conv_options, _conv_size, _conv, apply)
PARTS["norm"] = Part(no_options, same_size, lambda size: nn.BatchNorm2d(size[0]), apply)

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": nn.LeakyReLU,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "silu": nn.SiLU,
}
PARTS["activation"] = Part(
    lambda size: st.tuples(st.sampled_from(sorted(ACTIVATIONS)), st.booleans()),
    same_size,
    lambda size, name, inplace: ACTIVATIONS[name](inplace=inplace),
    apply,
)
PARTS["function"] = Part(
    lambda size: st.tuples(st.sampled_from(["sigmoid", "tanh", "sigmoid_", "tanh_", "neg"])),
    same_size,
    lambda size, name: Method(name),
    apply,
)


class Method(nn.Module):
    """A method of its input."""

    def __init__(self, name: str, *arguments: Any) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments

    def forward(self, *x: Tensor) -> Tensor:
        """(S, C, H, W) to what the method gives."""
        return getattr(x[0], self.name)(*x[1:], *self.arguments)


def alike(one: Size, other: Size) -> bool:
    return one == other


PARTS["sum"] = Part(
    lambda size: st.tuples(st.sampled_from(["add", "add_"])),
    lambda one, other, name: one,
    lambda one, other, name: Method(name),
    apply,
    second=alike,
)
PARTS["product"] = Part(
    lambda size: st.tuples(st.sampled_from(["mul", "mul_"])),
    lambda one, other, name: one,
    lambda one, other, name: Method(name),
    apply,
    second=alike,
)
PARTS["concat"] = Part(
    no_options,
    lambda one, other: (one[0] + other[0], *one[1:]),
    nothing,
    lambda net, layer, one, other: torch.cat([one, other], 1),
    second=lambda one, other: one[1:] == other[1:] and one[0] + other[0] <= 16,
)
PARTS["sum of sizes"] = Part(  # as in HRNet and in pyramids
    no_options,
    lambda one, other: one,
    nothing,
    lambda net, layer, one, other: one + F.interpolate(other, one.shape[2:], mode="nearest"),
    second=lambda one, other: one[0] == other[0] and other[1] <= one[1] and other[2] <= one[2],
)


def _pool_size(size: Size, kind, kernel, stride, padding, ceil) -> Size | None:
    try:
        return tuple(
            _pool(size, kind, kernel, stride, padding, ceil)(torch.zeros(1, *size)).shape[1:]
        )
    except RuntimeError:
        return None


def _pool(size, kind, kernel, stride, padding, ceil) -> nn.Module:
    kinds = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
    return kinds[kind](kernel, stride, padding, ceil_mode=ceil)


PARTS["pool"] = Part(
    lambda size: st.tuples(
        st.sampled_from(["max", "avg"]),
        st.sampled_from([2, 3]),
        st.sampled_from([1, 2]),
        st.sampled_from([0, 1]),
        st.booleans(),
    ),
    _pool_size,
    _pool,
    apply,
)


def _larger(size: Size, factor, mode) -> Size | None:
    h, w = size[1] * factor, size[2] * factor
    return (size[0], h, w) if max(h, w) <= 24 else None


PARTS["upsample"] = Part(
    lambda size: st.tuples(st.sampled_from([2, 3]), st.sampled_from(["nearest", "bilinear"])),
    _larger,
    lambda size, factor, mode: nn.Upsample(scale_factor=factor, mode=mode),
    apply,
)
PARTS["transposed"] = Part(
    lambda size: st.tuples(st.sampled_from([2, 4]), st.sampled_from([1, 2])),
    lambda size, kernel, groups: (
        (size[0], size[1] * 2, size[2] * 2)
        if max(size[1:]) <= 12 and size[0] % groups == 0
        else None
    ),
    lambda size, kernel, groups: nn.ConvTranspose2d(
        size[0], size[0], kernel, 2, kernel // 2 - 1, groups=groups
    ),
    apply,
)


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, y: Tensor) -> Tensor:
        """(S, C, H, W) to the same."""
        return y * torch.sigmoid(self.conv(F.adaptive_avg_pool2d(y, 1)))


PARTS["excite"] = Part(no_options, same_size, lambda size: Excite(size[0]), apply)


class Constant(nn.Module):
    """With a constant for each channel, or a number, that is made in each frame."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, y: Tensor) -> Tensor:
        """(S, C, H, W) to the same."""
        if self.kind == "scale":
            return y * self.scale
        if self.kind == "number":
            return y / 3 - 1
        if self.kind == "shift in place":
            return y.sub_(self.scale, alpha=0.5)
        filled = torch.zeros(1, y.shape[1], 1, 1, dtype=y.dtype)
        filled[:, ::2] = 0.5
        y = y + filled
        filled += 1
        return y.mul_(filled)


KINDS = ["scale", "number", "shift in place", "filled"]
PARTS["constant"] = Part(
    lambda size: st.tuples(st.sampled_from(KINDS)),
    same_size,
    lambda size, kind: Constant(size[0], kind),
    apply,
)
PARTS["nothing"] = Part(
    lambda size: st.tuples(st.sampled_from(["dropout", "clone", "contiguous"])),
    same_size,
    lambda size, name: nn.Dropout() if name == "dropout" else Method(name),
    apply,
)
PARTS["again"] = Part(  # a layer that ran before, on another map of such channels
    no_options,
    same_size,
    nothing,
    lambda net, layer, y: next((m(y) for m in net.layers if _takes(m, y)), y + 1),
)


def _takes(layer: nn.Module, y: Tensor) -> bool:
    """Whether a layer gives a map of this size for it."""
    if (
        not isinstance(layer, nn.Conv2d)
        or not layer.in_channels == y.shape[1] == layer.out_channels
    ):
        return False
    return layer.kernel_size == (1, 1) and layer.stride == (1, 1)


@st.composite
def programs(draw: st.DrawFn, most: int = 9) -> Drawn:
    """Few steps on small maps first."""
    size = draw(st.sampled_from([(8, 8), (9, 12), (16, 10)]))
    steps = [Step("conv", (0,), (3, 1, 1, 1, draw(st.integers(2, 4)), True, (True, "zeros")))]
    sizes = Drawn(size, tuple(steps), 0, 0).sizes()
    for _ in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(sorted(PARTS)))
        part = PARTS[name]
        reads = [len(sizes) - 1 - draw(st.integers(0, len(sizes) - 1))]  # the last map first
        if part.second is not None:
            fitting = [i for i, other in enumerate(sizes) if part.second(sizes[reads[0]], other)]
            if not fitting:
                continue
            reads.append(draw(st.sampled_from(fitting[::-1])))
        options = draw(part.options(sizes[reads[0]]))
        made = part.size(*(sizes[i] for i in reads), *options)
        if made is None or min(made) < 1:
            continue
        steps.append(Step(name, tuple(reads), options))
        sizes.append(made)
    return Drawn(size, tuple(steps), draw(st.integers(1, len(steps))), draw(st.integers(0, 3)))


def gated(net: nn.Module, reference: str = "hold") -> nn.Module:
    """In evaluation mode, with gates that open wherever anything changes."""
    dense = {
        name: None
        for name, m in net.named_modules()
        if isinstance(m, nn.ConvTranspose2d) or not getattr(m, "wanted", True)
    }
    gate = InputNormGate(0.0, scale="absolute")
    return skippose.convert(net, gate, overrides=dense, reference=reference).eval()


def video(size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """(4, 2, 3, H, W): one part changes, another one, and nothing."""
    generator, (h, w) = torch.Generator().manual_seed(7), size
    frames = torch.randn(2, 3, h, w, generator=generator, dtype=dtype).repeat(4, 1, 1, 1, 1)
    frames[1:, :, :, : h // 2, : w // 3] += 1
    frames[2:, :, 1, h // 2 :, 1:4] -= 1
    return frames


@torch.no_grad()
def check(drawn: Drawn, reference: str) -> None:
    """The plan on whole maps and streams of all captured backends, against the network."""
    net = gated(Program(drawn), reference)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        net, frames = net.to(dtype), video(drawn.size, dtype)
        runs: dict[str, Callable[[Tensor], Any]] = {}
        if dtype == torch.float64:
            runs["whole maps"] = MapsBackend(net, frames[0], Schedule()).step
            runs["torch"] = Stream(net, backend="torch")
        elif NativeBackend.unavailable() is None:
            runs["native"] = Stream(net, backend="native")
        for name, run in runs.items():
            for frame in frames:
                try:
                    found = run(frame)
                except BackendError as error:  # not all kinds of padding, and so on
                    assert name == "native" and not isinstance(error, CaptureError), error
                    break
                for key, right in net(frame.clone()).items():
                    off = float((found[key] - right).abs().max())
                    allowed = tolerance * max(1.0, float(right.abs().max()))
                    assert off <= allowed, f"{name}, {key}: {off} off, {allowed} allowed"


def refuses(drawn: Drawn, extra: Callable[[int], nn.Module], after: int) -> None:
    """A network that is captured is not, once it has such a part."""
    frame = video(drawn.size, torch.float32)[0]
    assert capture(gated(Program(drawn)), frame).ops
    net = gated(Program(drawn, extra, after % len(drawn.steps)))
    with pytest.raises(CaptureError):
        capture(net, frame)


POLICIES = st.sampled_from(["hold", "previous"])
AT_LENGTH = dict(deadline=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(drawn=programs(), reference=POLICIES)
def test_a_plan_is_the_network(drawn, reference):
    check(drawn, reference)


@pytest.mark.slow
@settings(max_examples=500, **AT_LENGTH)
@given(drawn=programs(most=25), reference=POLICIES)
def test_a_plan_is_the_network_at_length(drawn, reference):
    check(drawn, reference)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), drawn=programs(), after=st.integers(0, 99))
def test_a_part_that_no_plan_has_is_refused_anywhere(data, drawn, after, patterns, within):
    pattern = patterns[data.draw(st.sampled_from(sorted(patterns)))]
    refuses(drawn, lambda channels: within(channels, pattern.function), after)


@pytest.mark.slow
@settings(max_examples=500, **AT_LENGTH)
@given(data=st.data(), drawn=programs(most=20), after=st.integers(0, 99))
def test_a_part_that_no_plan_has_is_refused_at_length(data, drawn, after, patterns, within):
    pattern = patterns[data.draw(st.sampled_from(sorted(patterns)))]
    refuses(drawn, lambda channels: within(channels, pattern.function), after)


def test_all_parts_are_drawn():
    """The quick runs above would otherwise say less than they seem to."""
    seen: set[str] = set()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(drawn=programs())
    def look(drawn: Drawn) -> None:
        seen.update(step.name for step in drawn.steps)

    look()
    assert seen == set(PARTS)
