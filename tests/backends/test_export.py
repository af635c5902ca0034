"""The exported step is the step form; so is the backend that selects instead of gathering."""

import copy

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import skippose
from skippose import (
    ExactNormGate,
    GumbelGate,
    GumbelNormGate,
    InputNormGate,
    OutputNormGate,
)
from skippose.backends.torch_blocks import backend as blocks_backend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.backends.torch_maps.step import PlanStep
from skippose.export import can_export
from skippose.ops.schedule import Schedule
from skippose.plan.capture import capture
from tests.zoo import TwoOutputs

torch.set_num_threads(1)

GATES = {
    "input": InputNormGate(0.15, block=2, block_mode="fixed"),
    "output": OutputNormGate(0.3),
    "exact": ExactNormGate(0.3),
    "gumbel": GumbelGate(init_open=-0.01, block_mode="fixed"),
    "rectified": GumbelGate(init_open=-0.1, rectify=True, block_mode="fixed"),
    "learned": GumbelNormGate(0.15, block=2, block_mode="fixed"),
}
POLICIES = ["hold", "previous"]


def make_net(gate: str, reference: str, lively) -> nn.Module:
    torch.manual_seed(0)
    return skippose.convert(lively(TwoOutputs()), GATES[gate], reference=reference).double().eval()


def make_video(frames: int, slots: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(1, slots, 3, 12, 14, dtype=torch.float64, generator=generator)
    video = video.repeat(frames, 1, 1, 1, 1)
    for t in range(frames):
        noise = torch.rand(slots, 3, 5, 4, dtype=torch.float64, generator=generator)
        at = t % 7
        video[t, :, :, at : at + 5, at : at + 4] += noise
    video[frames // 2 :, 1:] = 2 - video[frames // 2 :, 1:]  # a cut in the second slot
    return video


QUICK = [("input", "hold"), ("gumbel", "previous")]
ALL = [
    pytest.param(gate, reference, marks=[] if (gate, reference) in QUICK else pytest.mark.slow)
    for gate in GATES
    for reference in POLICIES
]


needs_export = pytest.mark.skipif(not can_export(), reason="this torch cannot export the step")


@needs_export
@pytest.mark.parametrize(("gate", "reference"), ALL)
@torch.no_grad()
def test_an_exported_step_is_the_stream(gate, reference, make_lively):
    schedule = dict(cut=0.9, refresh_every=4)
    net, video = make_net(gate, reference, make_lively), make_video(8, 2)
    exported = skippose.export_step(net, video[0], **schedule)
    step, state = exported.program.module(), exported.state
    stream = skippose.Stream(net, backend="eager", **schedule)
    for frame in video:
        before = copy.deepcopy(state)
        output, after = step(frame, state)
        torch.testing.assert_close(output, stream(frame))
        torch.testing.assert_close(state, before, rtol=0, atol=0)  # no side effect
        state = after
    assert 0 < stream.report().sparsity < 1, "live gates"


class NoSwitching(TorchFunctionMode):
    """Fails where recording of gradients is turned on or off."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func is not torch._C._set_grad_enabled
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("gate", "reference"), [(g, r) for g in GATES for r in POLICIES])
def test_a_step_to_be_exported_switches_no_gradients(gate, reference, make_lively):
    """Each switch would be a part of the program, and exporting takes time in their square."""
    net, video = make_net(gate, reference, make_lively), make_video(1, 2)
    step = PlanStep(capture(net, video[0]), Schedule(cut=0.9))
    state = step.initial_state(2)
    with torch.no_grad(), NoSwitching():
        step(video[0], state)
    with pytest.raises(AssertionError), NoSwitching():
        step(video[0], state)


@needs_export
@pytest.mark.parametrize(
    ("width", "shrunk"),
    [
        pytest.param(8, dict(modules=(1, 1, 1), blocks=1), id="shrunk", marks=pytest.mark.slow),
        pytest.param(18, {}, id="W18", marks=pytest.mark.slow),
        pytest.param(32, {}, id="W32", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_an_exported_hrnet_is_the_stream(width, shrunk, make_hrnet, make_moving_video):
    net = make_hrnet(width, **shrunk)
    net = skippose.convert(net, InputNormGate(0.3, block=4)).double().eval()
    video = make_moving_video(4, 2, (64, 96)).double()
    exported = skippose.export_step(net, video[0])
    step, state = exported.program.module(), exported.state
    stream = skippose.Stream(net, backend="eager")
    for frame in video:
        output, state = step(frame, state)
        torch.testing.assert_close(output, stream(frame))
    assert 0 < stream.report().sparsity < 1, "live gates"


@needs_export
def test_an_exported_step_saved_and_loaded(tmp_path, make_lively):
    net, video = make_net("input", "hold", make_lively), make_video(4, 1)
    exported = skippose.export_step(net, video[0])
    torch.export.save(exported.program, tmp_path / "step.pt2")
    step, state = torch.export.load(tmp_path / "step.pt2").module(), exported.state
    stream = skippose.Stream(net, backend="eager")
    for frame in video:
        output, state = step(frame, state)
        torch.testing.assert_close(output, stream(frame))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda net, x: (net, x[0]), ValueError, r"\(S, C, H, W\).*\(3, 12, 14\)"),
        (lambda net, x: (net, x.numpy()), ValueError, r"\(S, C, H, W\).*ndarray"),
        (lambda net, x: (TwoOutputs().eval(), x), ValueError, "no gated.*skippose.convert"),
        (lambda net, x: (net.train(), x), RuntimeError, r"training mode.*eval\(\)"),
    ],
)
def test_bad_arguments_of_an_export(spoil, error, message, make_lively):
    net, x = spoil(make_net("input", "hold", make_lively), make_video(1, 1)[0])
    with pytest.raises(error, match=message):
        skippose.export_step(net, x)


@pytest.mark.skipif(can_export(), reason="this torch can export the step")
def test_a_torch_that_is_too_old_is_named(make_lively):
    with pytest.raises(RuntimeError, match=r"torch \S+ does not have"):
        skippose.export_step(make_net("input", "hold", make_lively), make_video(1, 1)[0])


# -- the backend on it ----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(refresh_every=4, cut=0.9)], ids=str)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("reference", POLICIES)
def test_the_maps_backend_is_the_stream(gate, reference, schedule, make_lively):
    net, video = make_net(gate, reference, make_lively), make_video(9, 2)
    backend = MapsBackend(net, video[0], schedule)
    stream = skippose.Stream(
        net, backend="eager", cut=schedule.cut, refresh_every=schedule.refresh_every
    )
    for t, frame in enumerate(video):
        if t == 3:
            backend.forget([1])
            stream.reset([1])
        torch.testing.assert_close(backend.step(frame), stream(frame))
    found, expected = backend.report(), stream.report()
    assert found.densities == pytest.approx(expected.densities)
    assert found.gmacs == pytest.approx(expected.gmacs)
    assert found.gate_gmacs == pytest.approx(expected.gate_gmacs)
    assert (found.frames, found.first_frames) == (expected.frames, expected.first_frames)


def test_it_serves_as_backend_torch_elsewhere_than_on_a_cpu(monkeypatch, make_lively):
    made = []
    monkeypatch.setattr(blocks_backend, "MapsBackend", lambda *given: made.append(given))
    net = skippose.convert(make_lively(TwoOutputs()), GATES["input"]).eval()
    given = (net, torch.zeros(1, 3, 12, 12, device="meta"), Schedule())
    blocks_backend.BlocksBackend.make(*given)
    assert made == [given]


class NoWaiting(TorchDispatchMode):
    """Fails where the host would ask a device for a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        assert not any(w in name for w in ("_local_scalar_dense", "nonzero", "item", "equal")), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("reference", POLICIES)
def test_the_maps_backend_never_waits_for_the_device(gate, reference, make_lively):
    net, video = make_net(gate, reference, make_lively), make_video(4, 2)
    backend = MapsBackend(net, video[0], Schedule(refresh_every=3, cut=0.9))
    for frame in video:
        with NoWaiting():
            backend.step(frame)


@pytest.mark.parametrize("reference", POLICIES)
def test_a_maps_backend_moves(reference, make_lively):
    net, video = make_net("input", reference, make_lively), make_video(6, 2)
    backend, other = (MapsBackend(net, video[0], Schedule()) for _ in range(2))
    for frame in video[:3]:
        backend.step(frame)
    other.load_state_dict(backend.state_dict())
    for frame in video[3:]:
        torch.testing.assert_close(other.step(frame), backend.step(frame), rtol=0, atol=0)
    broken = backend.state_dict()
    broken["age"] += 9
    next(reversed(broken["layers"].values()))["scale"] = torch.zeros(1)  # of 2 slots
    with pytest.raises(ValueError, match="of a network with other layers"):
        other.load_state_dict(broken)
    torch.testing.assert_close(other.step(video[0]), backend.step(video[0]), rtol=0, atol=0)
    foreign = skippose.Stream(net, backend="torch")
    foreign(video[0])
    with pytest.raises(ValueError, match="made on a CPU.*backend='eager'"):
        other.load_state_dict(foreign.state_dict())


# -- a state names its backend --------------------------------------------------------------------


def test_a_state_names_its_backend_and_version(make_lively):
    net, video = make_net("input", "hold", make_lively), make_video(4, 1)
    for name in ("torch", "eager"):
        stream = skippose.Stream(net, backend=name)
        stream(video[0])
        state = stream.state_dict()
        assert state["backend"] == {"name": name, "version": 1}
        other = skippose.Stream(net)  # 'auto' takes up the backend that the state is for
        other.load_state_dict(state)
        assert other.backend == name
        torch.testing.assert_close(other(video[1]), stream(video[1]), rtol=0, atol=0)


@pytest.mark.parametrize(("made", "read"), [("torch", "eager"), ("eager", "torch")])
def test_a_state_of_another_backend_says_so(made, read, make_lively):
    net, video = make_net("input", "hold", make_lively), make_video(3, 1)
    stream, other = skippose.Stream(net, backend=made), skippose.Stream(net, backend=read)
    stream(video[0])
    other(video[0])
    with pytest.raises(ValueError, match=f"'{made}'.*'{read}'.*backend='{made}'"):
        other.load_state_dict(stream.state_dict())
    assert other.backend == read
    state = stream.state_dict()
    state["backend"]["version"] = 99
    with pytest.raises(ValueError, match="version 99.*version 1"):
        skippose.Stream(net, backend=made).load_state_dict(state)
