"""Operators and activations of one's own: a decorated class, and no file of the package touched."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skippose
from skippose import InputNormGate, Stream
from skippose.backends.native.backend import NativeBackend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.export import can_export
from skippose.ops.schedule import Schedule
from skippose.plan.capture import capture
from skippose.plan.errors import BackendError
from skippose.plan.examples import Body, Example
from skippose.plan.op import Arguments, GraphBuilder, Op, Pixelwise, Value
from skippose.plan.operators.activations import activation
from skippose.plan.registry import register

torch.set_num_threads(1)


@register("pixel_shuffle")
@dataclass(frozen=True)
class PixelShuffle(Op):
    """Channels to rows and columns."""

    factor: int

    @classmethod
    def trace(cls, graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        x = graph.value(a["self"])
        graph.add(out, lambda v: cls((x,), v, factor=a["upscale_factor"]))

    def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
        return F.pixel_shuffle(inputs[0], self.factor)

    @classmethod
    def examples(cls) -> dict[str, Example]:
        return {"by two": Example(Body(lambda x: F.pixel_shuffle(x, 2), channels=2))}


@register("abs")
@dataclass(frozen=True)
class Absolute(Pixelwise):
    """Absolute values, pixel by pixel, with an activation after them."""

    takes_activation = True

    @classmethod
    def trace(cls, graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
        x = graph.value(a["self"])
        graph.add(out, lambda v: cls((x,), v))

    def pixels(self, parts: Sequence[Tensor], channels: int) -> Tensor:
        return parts[0].abs()

    @classmethod
    def examples(cls) -> dict[str, Example]:
        return {
            "alone": Example(Body(lambda x: x.abs())),
            "and": Example(Body(lambda x: x.abs().tanh())),
        }


@activation("mish", {"mish": (0.0, 0.0)})
def mish(x: Tensor, low: float, high: float) -> Tensor:
    """``x · tanh(softplus(x))``."""
    return F.mish(x, inplace=True)


def both(x: Tensor) -> Tensor:
    return F.pixel_shuffle(x.abs().sigmoid(), 2)


NETS = {
    "operators": (lambda: Body(both, channels=2), "Absolute"),
    "a whole map": (lambda: Body(lambda x: F.pixel_shuffle(x, 2), channels=2), "PixelShuffle"),
    "an activation": (lambda: Body(F.mish), "mish"),
}


@pytest.fixture(params=NETS)
def network(request) -> tuple[nn.Module, Tensor, str]:
    """A gated network, frames (T, S, C, H, W), and what the native backend lacks."""
    make, lacking = NETS[request.param]
    torch.manual_seed(0)
    net = skippose.convert(make(), InputNormGate(0.3)).eval()
    video = torch.randn(1, 2, 3, 24, 20).repeat(5, 1, 1, 1, 1)
    for t in range(1, 5):
        video[t, :, :, 2 * t : 2 * t + 6, t : t + 7] = torch.randn(2, 3, 6, 7)
    return net, video, lacking


def test_it_streams_and_reports(network):
    net, video, _ = network
    eager, blocks = (Stream(net, backend=name) for name in ("eager", "torch"))
    maps = MapsBackend(net, video[0], Schedule())
    for frame in video:
        expected = eager(frame)
        torch.testing.assert_close(blocks(frame), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps.step(frame), expected, rtol=1e-4, atol=1e-5)
    for report in (blocks.report(), maps.report()):
        assert report.densities == pytest.approx(eager.report().densities)
        assert 0 < report.sparsity < 1, "live gates"


def test_its_plan_is_shown_and_what_follows_is_taken_in():
    net = skippose.convert(Body(both, channels=2), InputNormGate(0.3)).eval()
    plan = capture(net, torch.randn(1, 3, 8, 8))
    assert [type(op).__name__ for op in plan.ops] == ["Conv", "Absolute", "PixelShuffle", "Conv"]
    assert str(plan.ops[1].activation) == "sigmoid", "pixel-wise, it said that it takes one"
    assert re.search(r"PixelShuffle +v\d+ +v\d+ 2x16x16", str(plan))


@pytest.mark.skipif(not can_export(), reason="this torch cannot export the step")
def test_it_is_exported(network):
    net, video, _ = network
    exported = skippose.export_step(net, video[0])
    step, state = exported.program.module(), exported.state
    stream = Stream(net, backend="eager")
    for frame in video:
        output, state = step(frame, state)
        torch.testing.assert_close(output, stream(frame), rtol=1e-4, atol=1e-5)


def test_the_native_backend_refuses_it_by_name_and_auto_goes_on(network, monkeypatch):
    net, video, lacking = network
    if NativeBackend.unavailable():
        pytest.skip(NativeBackend.unavailable())
    with pytest.raises(BackendError, match=f"no (operation|activation) '{lacking}'"):
        Stream(net, backend="native")(video[0])
    monkeypatch.setattr("skippose.stream._said", set())
    stream = Stream(net)
    with pytest.warns(UserWarning, match=f"'torch'; not 'native': .*'{lacking}'"):
        stream(video[0])
    assert stream.backend == "torch"


def test_clips_and_training_go_through_it(network):
    net, video, _ = network
    stream = Stream(net, backend="torch")
    frames = [stream(frame) for frame in video]
    with skippose.clips(len(video)), torch.no_grad():
        z = net(video.transpose(0, 1).flatten(0, 1))
    z = z.unflatten(0, (video.shape[1], -1)).transpose(0, 1)
    torch.testing.assert_close(torch.stack(frames), z, rtol=1e-4, atol=1e-5)
    net.train()
    with skippose.clips(len(video)):
        net(video.transpose(0, 1).flatten(0, 1)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_it_may_be_left_incomplete_but_says_so():
    @dataclass(frozen=True)
    class Bare(Op):
        def whole(self, inputs: Sequence[Tensor], out: Value) -> Tensor:
            return inputs[0]

    op = Bare((0,), 1)
    assert (op.key, op.gated, bool(op.activation), op.macs([]), op.label) == (
        None,
        None,
        False,
        0,
        "Bare",
    )
    assert op.with_affine(torch.ones(1), torch.ones(1)) is None
    assert op.with_addition(0) is op.with_activation(op.activation) is None
    with pytest.raises(BackendError, match="no operation 'Bare'"):
        op.lower(None)
    with pytest.raises(NotImplementedError, match="Bare gives no example"):
        Bare.examples()
    with pytest.raises(NotImplementedError, match="Bare does not say how it is traced"):
        Bare.trace(None, {}, torch.ones(1))
    with pytest.raises(TypeError, match="abstract"):
        type("Nothing", (Op,), {})((0,), 1)
