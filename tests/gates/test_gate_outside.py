"""A gate from outside of the package: one class, one line of registration."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose.backends import BACKENDS
from skippose.export import can_export
from skippose.gates import GATES, Gate, register_gate
from skippose.ops import Convolution
from skippose.ops.gate_spec import Change, GateSpec, InputNorm, Threshold
from tests.zoo import LargestChange

torch.set_num_threads(1)
EPS = 0.4


class Largest(LargestChange):
    """Opens where any element of the receptive field changed by more than EPS."""

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        return score.detach() > EPS


class StatedLargest(Largest):
    """The same, said as a value."""

    def spec(self, conv: Convolution, change: Change) -> GateSpec:
        return GateSpec(InputNorm(math.inf, normalize=True), change, Threshold(EPS))


@pytest.fixture(params=[Largest, StatedLargest], ids=lambda kind: kind.__name__)
def kind(request) -> Iterator[type[Gate]]:
    """Either class, registered for as long as the test takes."""
    yield register_gate(request.param)
    del GATES[request.param.__name__]


def make_net(gate, reference: str) -> nn.Module:
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1)
    )
    return skippose.convert(dense, gate, reference=reference)


def make_video(frames: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(1, 1, 3, 16, 18, generator=generator).repeat(frames, 1, 1, 1, 1)
    for t in range(frames):
        video[t, :, :, 2 * t : 2 * t + 5, 3:9] += torch.randn(3, 5, 6, generator=generator)
    return video


@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_streams_as_it_runs_in_clips(kind, backend, reference):
    net, video = make_net(dict(type=kind.__name__, block=2), reference).eval(), make_video()
    with skippose.clips(len(video)) as run, torch.no_grad():
        expected = net(video.flatten(0, 1))
    report = run.report(net)
    assert 0.1 < report.sparsity < 0.95, "live gates"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            stream = skippose.Stream(net, backend=backend)
            found = torch.cat([stream(frame) for frame in video])
        except ValueError as error:
            assert backend == "native" and kind is Largest, error
            assert "layer 0#0: Largest states no spec" in str(error)
            return
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert stream.report().densities == pytest.approx(report.densities)


def test_the_stream_says_once_that_it_takes_whole_maps(monkeypatch):
    monkeypatch.setattr("skippose.stream._said", set())  # by other tests
    net, video = make_net(Largest(), "hold").eval(), make_video(2)
    stream = skippose.Stream(net, backend="torch")
    with pytest.warns(UserWarning, match="in full: layer 0#0: Largest states no spec"):
        stream(video[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream(video[1])
        skippose.Stream(net, backend="torch")(video[0])


def test_auto_takes_the_first_backend_that_can_ask_it(kind):
    net, video = make_net(kind(), "hold").eval(), make_video(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = skippose.Stream(net)
        stream(video[0])
    first = "native" if kind is StatedLargest else "torch"
    assert stream.backend in (first, "torch")  # no native where no compiler is


@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_a_training_step_through_it(kind, reference):
    net, video = make_net(kind(), reference), make_video(4)
    with skippose.clips(len(video)) as run:
        net(video.flatten(0, 1)).square().mean().backward()
    assert 0 < run.report(net).sparsity < 1
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.skipif(not can_export(), reason="this torch cannot export the step")
def test_its_step_is_exported(kind):
    net, video = make_net(kind(), "hold").eval(), make_video(3)
    program, state = skippose.export_step(net, video[0])
    stream = skippose.Stream(net, backend="eager")
    for frame in video:
        found, state = program.module()(frame, state)
        torch.testing.assert_close(found, stream(frame), rtol=1e-5, atol=1e-5)


def test_two_gates_of_one_name_are_refused(kind):
    with pytest.raises(ValueError, match=f"a gate '{kind.__name__}' is registered already"):
        register_gate(type(kind.__name__, (Gate,), {}))
