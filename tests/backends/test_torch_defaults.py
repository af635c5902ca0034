"""What other code sets as torch's default dtype or device reaches no buffer, state or result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

import skippose
from skippose import InputNormGate
from skippose.backends.native.backend import NativeBackend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.gates import GATES as REGISTERED
from skippose.gates import Gate
from skippose.ops import Convolution, GatedConvolution
from skippose.ops.reference import skip_conv_loop
from skippose.ops.schedule import Schedule

torch.set_num_threads(1)

DEFAULTS = ["float64", "bfloat16", "float16", "meta", "meta context"]
SHARPEST = ["bfloat16", "meta"]
"""Those in which little is right by chance."""
GATES: dict[str, Callable[[], Gate]] = {
    "every change": lambda: InputNormGate(0.0),
    **{
        f"{name}: {label}": lambda kind=kind, label=label: kind.examples()[label]
        for name, kind in REGISTERED.items()
        for label in kind.examples()
    },
}
FIRST = {"every change", *(f"{n}: {next(iter(k.examples()))}" for n, k in REGISTERED.items())}
EVERY_GATE = [
    pytest.param(gate, reference, marks=[] if gate in FIRST else pytest.mark.slow)
    for gate in GATES
    for reference in ("hold", "previous")
]
ALL = pytest.mark.parametrize(("gate", "reference"), EVERY_GATE)
BACKENDS = ["eager", "torch", "functional", "native", "native bfloat16"]


@contextmanager
def defaults(name: str) -> Iterator[None]:
    """What other code has set; the device stands for any that is not the network's."""
    if name == "meta context":
        with torch.device("meta"):
            yield
        return
    usual = torch.get_default_dtype()
    try:
        if name == "meta":
            torch.set_default_device("meta")
        elif name != "usual":
            torch.set_default_dtype(getattr(torch, name))
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(usual)


class Net(nn.Module):
    """Branches, both kinds of upsampling, pooling, a transposed convolution, and features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.down, self.conv = (
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.up = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.head, self.linear = nn.Conv2d(8, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.bn(self.stem(x)))
        low = self.down(x)
        y = self.conv(x) + F.interpolate(low, scale_factor=2, mode="nearest") * 0.5
        y = F.relu(y + self.up(low))
        y = y + F.interpolate(F.max_pool2d(y, 2), scale_factor=2, mode="bilinear")
        y = self.head(F.silu(y))
        return {"maps": y, "features": self.linear(y.mean((2, 3)))}


def dense_net() -> nn.Module:
    torch.manual_seed(0)
    net = Net().eval()
    net.bn.running_mean.uniform_(-0.1, 0.1)
    return net


def converted(dense: nn.Module, gate: Gate, reference: str) -> nn.Module:
    return skippose.convert(dense, gate, overrides={"up": None}, reference=reference)


def make_video(frames: int = 6, slots: int = 2) -> Tensor:
    """(T, S, 3, 32, 40): quiet, with something that moves, and a cut in the second slot."""
    generator = torch.Generator().manual_seed(1)
    video = torch.rand(1, slots, 3, 32, 40, generator=generator).repeat(frames, 1, 1, 1, 1)
    for t in range(frames):
        thing = torch.rand(slots, 3, 7, 9, generator=generator)
        video[t, :, :, 3 * t : 3 * t + 7, 4 * t : 4 * t + 9] += thing
    video[4:, 1:] = 1 - video[4:, 1:]
    return video


def play(net: nn.Module, backend: str, video: Tensor, schedule: dict[str, Any]) -> dict[str, Any]:
    """Outputs, states and report of a video, moved to another stream half way."""
    if backend == "functional":
        first, second = (MapsBackend(net, video[0], Schedule(**schedule)) for _ in range(2))
        run, forget = MapsBackend.step, MapsBackend.forget
    else:
        name, _, precision = backend.partition(" ")
        options = {"backend": name, **({"precision": precision} if precision else {})}
        first, second = (skippose.Stream(net, **schedule, **options) for _ in range(2))
        run, forget = skippose.Stream.__call__, skippose.Stream.reset
    outputs = [run(first, frame) for frame in video[:3]]
    state = first.state_dict()
    second.load_state_dict(state)
    forget(second, [0])
    outputs += [run(second, frame) for frame in video[3:]]
    reports = [first.report().to_dict(), second.report().to_dict()]
    return {"outputs": outputs, "states": [state, second.state_dict()], "reports": reports}


def assert_identical(found: Any, expected: Any) -> None:
    """Bit by bit, types and devices included."""
    leaves, tree = pytree.tree_flatten(found)
    others, other_tree = pytree.tree_flatten(expected)
    assert tree == other_tree
    for a, b in zip(leaves, others, strict=True):
        if isinstance(b, Tensor):
            assert (a.dtype, a.device) == (b.dtype, b.device)
            assert torch.equal(a, b)
        else:
            assert a == b


def needed(backend: str) -> None:
    if backend.startswith("native") and NativeBackend.unavailable() is not None:
        pytest.skip(f"no native backend: {NativeBackend.unavailable()}")


def stream_under(
    name: str, gate: str, reference: str, backend: str, schedule: dict[str, Any]
) -> dict[str, Any]:
    """A stream whose gates, too, were made under these defaults."""
    dense, video = dense_net(), make_video()
    with defaults(name):
        torch.manual_seed(3)
        net = converted(dense, GATES[gate](), reference).eval()
        return play(net, backend, video, schedule)


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@ALL
def test_streams(gate, reference, backend):
    needed(backend)
    given = (gate, reference, backend, {"cut": 0.8, "refresh_every": 4})
    expected = stream_under("usual", *given)
    for name in SHARPEST:
        assert_identical(stream_under(name, *given), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("default", DEFAULTS)
def test_streams_in_which_every_change_opens_are_dense_under_all_defaults(default, backend):
    needed(backend)
    given = ("every change", "hold", backend, {})
    found, dense = stream_under(default, *given), dense_net()
    assert_identical(found, stream_under("usual", *given))
    tolerance = 0.05 if backend == "native bfloat16" else 1e-4
    for frame, output in zip(make_video(), found["outputs"], strict=True):
        with torch.no_grad():
            torch.testing.assert_close(output, dense(frame), rtol=tolerance, atol=tolerance)


def clips_under(
    name: str, gate: str, reference: str, mode: str, options: dict[str, Any]
) -> dict[str, Any]:
    """A clip, and the step back through it."""
    dense, video = dense_net(), make_video().transpose(0, 1).flatten(0, 1)
    with defaults(name):
        torch.manual_seed(3)
        net = converted(dense, GATES[gate](), reference).train(mode == "train")
        with skippose.clips(6, **options) as passed:
            output = net(video)
        loss = sum(part.square().mean() for part in output.values()) + passed.gate_loss()
        loss.backward()
    return {
        "output": {k: v.detach() for k, v in output.items()},
        "loss": loss.detach(),
        "report": passed.report(net).to_dict(),
        "grads": {k: p.grad for k, p in net.named_parameters() if p.grad is not None},
    }


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", ["eval", "train"])
@ALL
def test_clips(gate, reference, mode):
    scheduled = {"lengths": [6, 4], "cut": 0.8, "refresh_every": 4}
    for options in ({"keep_state": True}, scheduled):
        given = (gate, reference, mode, options)
        expected = clips_under("usual", *given)
        for name in SHARPEST:
            assert_identical(clips_under(name, *given), expected)


@pytest.mark.parametrize("default", DEFAULTS)
def test_clips_in_which_every_change_opens_are_dense_under_all_defaults(default):
    given = ("every change", "hold", "eval", {})
    found, video = clips_under(default, *given), make_video().transpose(0, 1).flatten(0, 1)
    assert_identical(found, clips_under("usual", *given))
    with torch.no_grad():
        torch.testing.assert_close(found["output"], dense_net()(video), rtol=1e-4, atol=1e-4)


@ALL
def test_the_plain_formula(gate, reference):
    conv, x = nn.Conv2d(3, 4, 3, padding=1), make_video().transpose(0, 1)

    def run(name: str) -> tuple[Tensor, Tensor]:
        with defaults(name), torch.no_grad():
            torch.manual_seed(3)
            bound = GATES[gate]().for_layer(conv).eval()
            layer = GatedConvolution(Convolution.of(conv), bound, reference, (2, 2))
            return skip_conv_loop(x, layer)

    expected = run("usual")
    for name in SHARPEST:
        assert_identical(run(name), expected)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_imposed_masks(backend):
    needed(backend)
    net = converted(dense_net(), InputNormGate(0.1), "hold").eval()
    video, cells = make_video(), torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.4

    def run(name: str) -> list[Any]:
        with defaults(name):
            stream = skippose.Stream(net, backend=backend)
            outputs = [stream(video[0])]
            stream.fix_masks(cells)
            return [*outputs, stream(video[1]), stream.masks()]

    expected = run("usual")
    for name in DEFAULTS:
        assert_identical(run(name), expected)


def test_a_gate_is_where_its_layer_is():
    """A template is made anywhere; what a layer has of it goes where the layer's weights are."""
    with defaults("meta"):
        gates = [make() for make in GATES.values()]
    for gate in gates:
        bound = gate.for_layer(nn.Conv2d(2, 2, 3))
        assert all(t.is_cpu for t in (*bound.parameters(), *bound.buffers()))
        bound = gate.for_layer(nn.Conv2d(2, 2, 3, device="meta"))
        assert all(t.is_meta for t in (*bound.parameters(), *bound.buffers()))
