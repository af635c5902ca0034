"""What a plan takes for a constant is one; a network that has others is refused by name."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import skippose
from skippose import InputNormGate, Stream
from skippose.backends.native.backend import NativeBackend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.ops.schedule import Schedule
from skippose.plan import recorder
from skippose.plan.capture import CaptureError, capture
from skippose.plan.frame_tensor import FrameTensor
from skippose.plan.operators.pool import Pool

torch.set_num_threads(1)

# Few patterns use the layer that is there for them.
pytestmark = pytest.mark.filterwarnings("ignore:.*gated layers of .* did not run")

BACKENDS = ["torch", "native"]


def runs(backend: str) -> None:
    if backend == "native" and (reason := NativeBackend.unavailable()):
        pytest.skip(reason)


def around(middle: nn.Module, channels: int = 4) -> nn.Module:
    """A network with a module between two gated convolutions."""
    torch.manual_seed(0)
    parts = nn.Conv2d(3, channels, 3, padding=1), middle, nn.Conv2d(channels, 2, 1)
    return skippose.convert(nn.Sequential(*parts), InputNormGate(0.0)).eval()


def frames(count: int = 3) -> Tensor:
    """(T, 1, 3, 8, 10)."""
    return torch.randn(count, 1, 3, 8, 10, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def shows_the_network(net: nn.Module, backend: str) -> None:
    stream = Stream(net, backend=backend)
    for frame in frames():
        torch.testing.assert_close(stream(frame), net(frame.clone()), rtol=1e-4, atol=1e-5)


# -- what no plan can repeat ----------------------------------------------------------------------


def test_it_is_refused_by_name(pattern, within):
    net = around(within(4, pattern.function))
    with pytest.raises(CaptureError, match=f"(?s){pattern.message}.*cannot be captured$"):
        capture(net, frames()[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_refuse_it(backend, pattern, within):
    runs(backend)
    stream = Stream(around(within(4, pattern.function)), backend=backend)
    with pytest.raises(CaptureError):
        stream(frames()[0])


def test_an_output_is_a_second_one():
    class Indices(nn.Module):
        def forward(self, y: Tensor):
            return F.max_pool2d(y, 2, return_indices=True)

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Indices())
    with pytest.raises(CaptureError, match="an output, after .*: it is or reads output 1 of aten"):
        capture(skippose.convert(net, InputNormGate(0.0)).eval(), frames()[0])


@pytest.mark.parametrize(
    "output",
    [
        lambda y: torch.ones(1, 4, 1, 1),
        lambda y: torch.tensor(y.shape),
        lambda y: y.shape[-1],
        lambda y: torch.linspace(0, 1, y.shape[-1])[None, None, None],
    ],
    ids=["constant", "shape", "number", "places"],
)
def test_an_output_is_a_constant(output):
    class Returns(nn.Module):
        def forward(self, y: Tensor):
            return y, output(y)

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Returns())
    with pytest.raises(CaptureError, match="an output of type .*: it is no function of the frame"):
        capture(skippose.convert(net, InputNormGate(0.0)).eval(), frames()[0])


# -- what a plan can repeat -----------------------------------------------------------------------

SOUND = {}


def sound(function):
    SOUND[function.__name__] = function
    return function


@sound
def a_constant_that_is_filled(m, y):
    mask = torch.zeros(1, y.shape[1], 1, 1)
    mask[:, 0] = 2
    mask[:, 1:].add_(0.5)
    torch.mul(mask, 0.5, out=mask)
    return y * mask


@sound
def a_constant_that_is_written_to_between_its_uses(m, y):
    c = torch.ones(1, y.shape[1], 1, 1)
    y = y + c
    c += 1
    y = y * c
    c.zero_()
    return y


@sound
def weights_that_are_written_to_between_their_uses(m, y):
    w = torch.ones(y.shape[1], 1, 3, 3) / 9
    y = F.conv2d(y, w, padding=1, groups=y.shape[1])
    up = F.conv_transpose2d(y, w, padding=1, groups=y.shape[1])
    w *= -1
    return up + F.conv2d(y, w, padding=1, groups=y.shape[1])


@sound
def weights_that_are_computed_in_each_frame(m, y):
    w = m.conv.weight
    return F.conv2d(y, (w - w.mean()) / w.std(), m.conv.bias)


@sound
def a_number_of_a_constant(m, y):
    if bool(m.scale.detach().mean() > 0) and m.kept.tolist():
        return y * float(m.scale.sum()) + torch.tensor([1.0, 2.0]).numpy().sum()
    return y


@sound
def a_constant_that_is_cached(m, y):
    if not m.past:
        m.past.append(torch.arange(y.shape[1])[None, :, None, None] / 4)
    return y + m.past[0]


@sound
def an_attribute_that_is_cached(m, y):
    if not hasattr(m, "cached"):
        m.cached = torch.arange(y.shape[1])[None, :, None, None] / 4
    return y + m.cached


@sound
def calls_that_are_counted_and_not_used(m, y):
    m.calls += 1
    m.last = y
    return y


@sound
def a_map_that_is_printed(m, y):
    print(y, repr(y), str(y))
    return y


@sound
def what_a_shape_tells(m, y):
    return y * (1 / y.shape[-1]) + float(y.numel())


@sound
def second_outputs_that_nobody_reads(m, y):
    best, _ = F.max_pool2d(y, 3, 1, 1, return_indices=True)
    return best


@sound
def in_place(m, y):
    z = y + 1
    y += 2
    y.mul_(0.5).clamp_(-1, 1)
    return F.relu(z, inplace=True) + y


@sound
def inference_mode(m, y):
    with torch.inference_mode():
        return F.relu(y) + m.scale


@sound
def the_same_memory(m, y):
    z = y.data.detach().clone()
    z.relu_()
    return y + z


@sound
def another_thread_with_tensors_of_its_own(m, y):
    found = []

    def work() -> None:
        x = torch.rand(2, 2)
        x.add_(1)
        found.append((float(x.sum()), x.numpy().sum(), x.tolist()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found, "nothing in other threads is refused or recorded"
    return y


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", SOUND)
def test_it_is_captured(what, backend, within):
    runs(backend)
    shows_the_network(around(within(4, SOUND[what])), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frame_that_the_network_writes_to(backend):
    runs(backend)

    class Normalized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sub_(0.5).div_(0.25)

    net = nn.Sequential(Normalized(), nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    net = skippose.convert(net, InputNormGate(0.0)).eval()
    shows_the_network(net, backend)
    frame = frames()[0]
    before = frame.clone()
    Stream(net, backend=backend)(frame)
    assert torch.equal(frame, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_are_parametrized(backend):
    runs(backend)

    class Standardized(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return (w - w.mean()) / w.std()

    net = around(nn.Identity())
    parametrize.register_parametrization(net[2], "weight", Standardized())
    shows_the_network(net, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_that_were_compiled_to_torchscript(backend):
    runs(backend)

    @torch.jit.script
    def function(y: Tensor) -> Tensor:
        if y.shape[1] > 2:
            y = torch.relu(y) * 2.0
        return y

    class Scripted(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return function(y)

    shows_the_network(around(Scripted()), backend)


# -- layers that are not what a plan takes them for -----------------------------------------------


def its_convolution(net: nn.Module) -> None:
    net[0]._conv_forward = lambda x, w, b: F.conv2d(F.pad(x, (1,) * 4, mode="circular"), w, b)


def its_dense_form(net: nn.Module) -> None:
    layer = net[0]
    layer.dense = lambda x: 2 * type(layer).dense(layer, x)


def on_its_class(net: nn.Module) -> None:
    class Doubled(type(net[0])):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return 2 * super()._conv_forward(x, weight, bias)

    net[0].__class__ = Doubled


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("replace", [its_convolution, its_dense_form, on_its_class])
def test_a_layer_that_computes_something_else(replace, cached):
    net = around(nn.ReLU())
    if cached:
        capture(net, frames()[0])
    replace(net)
    with pytest.raises(CaptureError, match="layer '0': its (_conv_forward|dense|class) "):
        capture(net, frames()[0])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forward_that_was_replaced_on_the_object_is_recorded(backend, cached):
    runs(backend)
    net = around(nn.ReLU())
    if cached:
        capture(net, frames()[0])
    layer = net[0]
    layer.forward = lambda x: 2 * type(layer).forward(layer, x)
    shows_the_network(net, backend)
    assert len(capture(net, frames()[0]).gated) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_subclass_that_does_more_is_recorded(backend):
    runs(backend)
    net = around(nn.ReLU())

    class Doubled(type(net[0])):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    net[0].__class__ = Doubled
    shows_the_network(net, backend)
    assert len(capture(net, frames()[0]).gated) == 2


def test_hooks_of_all_modules():
    net = around(nn.ReLU())
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(CaptureError, match="all modules have forward hooks"):
            capture(net, frames()[0])
    finally:
        handle.remove()
    capture(net, frames()[0])


# -- the plan against the network -----------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["kind", "size"])
def test_an_operator_that_is_traced_wrongly(wrong, monkeypatch):
    def trace(graph, a, out):
        x = graph.value(a["self"])
        geometry = skippose.ops.ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
        if wrong == "size":
            geometry = skippose.ops.ConvGeometry((3, 3))
        graph.add(out, lambda v: Pool((x,), v, kind="avg", geometry=geometry))

    monkeypatch.setitem(recorder.TRACES, "max_pool2d_with_indices", trace)
    net = around(nn.MaxPool2d(3, 1, 1))
    with pytest.raises(CaptureError, match="operation avg pool 3x3/1 gives other values in a plan"):
        capture(net, frames()[0])


def cancelling() -> nn.Module:
    """Its results are small differences of large numbers."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean.fill_(100)
    norm.running_var.fill_(1e-6)
    return norm


def dead() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    norm.running_var.zero_()
    return norm


def deep() -> nn.Module:
    return nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()] * 3)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("middle", [cancelling, dead, deep])
def test_rounding_is_no_difference(middle, dtype):
    assert capture(around(middle()).to(dtype), frames()[0].to(dtype)).ops


def test_a_video_that_begins_in_black():
    net = around(nn.ReLU())
    assert capture(net, torch.zeros(1, 3, 8, 10)).ops


def test_an_error_of_the_network_stays_that_error():
    class Wrong(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            raise KeyError("a bug of its own")

    with pytest.raises(KeyError, match="a bug of its own"):
        capture(around(Wrong()), frames()[0])
    with pytest.raises(RuntimeError, match="channels"):
        capture(around(nn.ReLU()), torch.rand(1, 5, 8, 10))


# -- what a capture leaves behind -----------------------------------------------------------------


def test_numbers_and_tensors_of_a_frame_do_not_stay(within):
    def function(m, y):
        m.calls += 1
        m.last, m.several = y, [y]
        if not hasattr(m, "made"):
            m.register_buffer("made", torch.ones(1))
        m.past.append(y)
        return y + m.made

    net = around(within(4, function))
    before = set(vars(net[1]))
    shows = capture(net, frames()[0])
    assert net[1].calls == 0 and set(vars(net[1])) == before
    assert torch.equal(net[1].made, torch.ones(1)), "what was made for all frames"
    kept = net[1].past[0]
    assert isinstance(kept, FrameTensor) and kept.numpy().shape == (1, 4, 8, 10), "ordinary now"
    assert float((kept + 1).sum()) == pytest.approx(float(kept.plain.sum()) + kept.numel())
    assert capture(net, frames()[0]) is not shows, "it has another buffer now"
    assert capture(net, frames()[0]) is capture(net, frames()[0])


def test_a_refusal_leaves_no_trace(pattern, within):
    if "the network changes" in pattern.message:
        pytest.skip("numpy has written by then")
    net = around(within(4, pattern.function))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    calls, drawn = net[1].calls, torch.get_rng_state()
    with pytest.raises(CaptureError):
        capture(net, frames()[0])
    assert net[1].calls == calls
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn), "the user's random numbers go on as before"


def test_statistics_of_training_are_not_moved():
    net = around(nn.BatchNorm2d(4))
    net[1].train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CaptureError, match="training mode"):
        capture(net, frames()[0])
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_the_network_runs_twice_for_a_plan_and_not_again(within):
    ran = []
    net = around(within(4, lambda m, y: (ran.append(1), y)[1]))
    for _ in range(3):
        capture(net, frames()[0])
    assert len(ran) == 2


# -- a plan shows the network as it was, and another one where it changed -------------------------


class Everything(nn.Module):
    """Layers of all kinds whose weights are those of the plan as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.up, self.last = nn.ConvTranspose2d(4, 4, 2, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.up(torch.relu(self.second(self.first(x)))))
        return self.last(y.mean((2, 3)))


@pytest.mark.parametrize("backend", [*BACKENDS, "whole maps"])
@pytest.mark.parametrize("layer", ["first", "second", "up", "last"])
def test_weights_that_change_while_a_stream_runs(layer, backend):
    runs(backend)
    torch.manual_seed(0)
    net = skippose.convert(Everything(), InputNormGate(0.0), overrides={"second": None, "up": None})
    net.eval()
    one, two = frames(2)
    if backend == "whole maps":
        step = MapsBackend(net, one, Schedule()).step
    else:
        step = Stream(net, backend=backend)
    step(one)
    with torch.no_grad():
        expected = net(two)
    net.get_submodule(layer).weight.data.neg_()
    torch.testing.assert_close(step(two), expected)


def replace_forward(m: nn.Module) -> None:
    m.forward = lambda y: y * 3


def replace_forward_again(m: nn.Module) -> None:
    replace_forward(m)
    m.forward = lambda y: y * 4


def set_attribute(m: nn.Module) -> None:
    m.factor = 3.0


def set_sequence(m: nn.Module) -> None:
    m.factors = [1.0, 3.0]


def write_to_attribute(m: nn.Module) -> None:
    m.constant.add_(1)


def set_attribute_to_another(m: nn.Module) -> None:
    m.constant = torch.full((1,), 7.0)


class Settings(nn.Module):
    """Reads what it does not print."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.factors, self.constant = 2.0, [1.0, 2.0], torch.ones(1)

    def forward(self, y: Tensor) -> Tensor:
        return y * self.factor * self.factors[1] + self.constant


@pytest.mark.parametrize(
    "change",
    [
        replace_forward,
        replace_forward_again,
        set_attribute,
        set_sequence,
        write_to_attribute,
        set_attribute_to_another,
    ],
)
def test_a_change_that_is_not_printed(change):
    net, frame = around(Settings()), frames()[0]
    before = capture(net, frame)
    assert capture(net, frame) is before
    change(net[1])
    assert capture(net, frame) is not before
    shows_the_network(net, "torch")
