"""The whole-map backend with a frame recorded once and replayed, and with imposed masks."""

from __future__ import annotations

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import skippose
from skippose import ExactNormGate, InputNormGate, Stream
from skippose.backends.torch_maps import backend as maps_backend
from skippose.backends.torch_maps.backend import MapsBackend
from skippose.ops.schedule import Schedule

torch.set_num_threads(1)
SCHEDULE = Schedule(refresh_every=5, cut=0.8)


class Replayed:
    """Stands for a CUDA graph: memory is fixed when it is recorded, and written to in place.

    What the function reads beside its arguments is what it was when it was recorded.
    """

    recorded = 0

    def __init__(self, function, frame: Tensor, state) -> None:
        self._function, self._state = function, state
        self._reads = dict(vars(function.__self__))
        self._output = function(frame, state)[0]  # which warms up, and writes nothing
        type(self).recorded += 1

    def __call__(self, frame: Tensor):
        attributes = vars(self._function.__self__)
        now = dict(attributes)
        attributes.update(self._reads)
        output, after = self._function(frame.clone(), self._state)
        attributes.clear()
        attributes.update(now)
        for mine, new in ((self._output, output), (self._state, after)):
            pairs = zip(*(pytree.tree_flatten(t)[0] for t in (mine, new)), strict=True)
            for kept, made in pairs:
                kept.copy_(made)
        return self._output


@pytest.fixture(params=["as it is", "replayed"])
def make_backend(request, monkeypatch):
    """Makes the backend: as on a CPU, and as on a GPU."""
    monkeypatch.setattr(maps_backend, "RecordedStep", Replayed)
    monkeypatch.setattr(Replayed, "recorded", 0)
    replayed = request.param == "replayed"
    monkeypatch.setattr(MapsBackend, "records", staticmethod(lambda frame: replayed))
    return lambda net, frame: MapsBackend(net, frame, SCHEDULE)


def make_net(reference: str = "hold", gate=None) -> nn.Module:
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.Conv2d(6, 4, 1)
    )
    gate = InputNormGate(0.3, block=2) if gate is None else gate
    return skippose.convert(dense, gate, reference=reference).double().eval()


def make_video(frames: int, slots: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(slots, 3, 18, 26, dtype=torch.float64, generator=generator)
    video = video.repeat(frames, 1, 1, 1, 1)
    for t in range(frames):
        video[t, :, :, t : t + 5, 3:9] += torch.randn(slots, 3, 5, 6, generator=generator)
    return video


@pytest.mark.parametrize("gate", [None, ExactNormGate(0.4)], ids=["input", "exact"])
@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_it_is_the_step_form(reference, gate, make_backend):
    net, video = make_net(reference, gate), make_video(7)
    backend = make_backend(net, video[0])
    eager = Stream(net, backend="eager", refresh_every=5, cut=0.8)
    outputs = []
    for t, frame in enumerate(video):
        if t == 3:
            backend.forget([1]), eager.reset([1])
        outputs.append((backend.step(frame), eager(frame)))
        for name, mask in eager.masks().items():
            assert torch.equal(backend.masks()[name].opened, mask.opened), (t, name)
    for found, expected in outputs:  # none of them was overwritten
        torch.testing.assert_close(found, expected)
    report, expected = backend.report(), eager.report()
    assert report.densities == pytest.approx(expected.densities)
    assert report.gate_gmacs == pytest.approx(expected.gate_gmacs)
    assert (report.frames, report.first_frames) == (expected.frames, expected.first_frames)
    assert 0.02 < report.sparsity < 0.98


@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_masks_are_imposed_and_the_gates_know_when_they_are_asked_again(reference, make_backend):
    """What gates refer to moves on with imposed masks as with their own."""
    net, video = make_net(reference), make_video(9)
    live, again = make_backend(net, video[0]), make_backend(net, video[0])
    made = Replayed.recorded
    for t, frame in enumerate(video):
        output = live.step(frame)
        if t in (6, 7):
            again.fix_masks(None)
        elif t:
            again.fix_masks({n: m for n, m in live.masks().items() if t < 4 or n == "2"})
        torch.testing.assert_close(again.step(frame), output)
    assert again.report().densities == pytest.approx(live.report().densities)
    # One recording for all layers, one for a single one, and after the gates were asked another.
    assert Replayed.recorded - made in (0, 3)
    again.load_state_dict(live.state_dict())
    torch.testing.assert_close(again.step(video[0]), live.step(video[0]))


def test_masks_that_cannot_be_recorded_are_not_imposed(make_backend, monkeypatch):
    net, video = make_net(), make_video(4)
    backend, other = make_backend(net, video[0]), make_backend(net, video[0])
    if not Replayed.recorded:
        pytest.skip("nothing is recorded")
    for frame in video[:2]:
        backend.step(frame), other.step(frame)

    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as now:
        now.setattr(maps_backend, "RecordedStep", fail)
        with pytest.raises(ValueError, match="cannot be recorded.*out of memory"):
            backend.fix_masks(torch.zeros(2, 2, dtype=torch.bool))
    for frame in video[2:]:
        assert torch.equal(backend.step(frame), other.step(frame))


def test_outputs_are_ordinary_tensors(make_backend):
    net, video = make_net(), make_video(2)
    backend = make_backend(net, video[0])
    output = backend.step(video[0])
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    (output.mul_(2) * weight).sum().backward()
    assert weight.grad == output.sum()
