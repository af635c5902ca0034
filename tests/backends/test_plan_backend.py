"""A backend from outside of the package: one class, which runs a frame; the rest is inherited."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose import ExactNormGate, GumbelGate, InputNormGate, Stream
from skippose.backends import BACKENDS, Counts, PlanBackend, register_backend
from skippose.backends.masks import blocks_of
from skippose.ops import SkipState, empty_state, skip_conv_step

torch.set_num_threads(1)
GATES = {
    "input": InputNormGate(0.3, block=2),
    "exact": ExactNormGate(0.4),
    "learned": GumbelGate(init_open=-0.1, block=2),
}
POLICIES = ["hold", "previous"]


class Example(PlanBackend):
    """Runs a plan on whole maps, each gated layer in its step form."""

    name, form = "example", "example"

    def __init__(self, net, frame, schedule, **options) -> None:
        super().__init__(net, frame, schedule, **options)
        self.states, self.open, self.imposed = {}, {}, {}
        for name, op in self.layers.items():
            v = self.plan.values[op.inputs[0]]
            x = torch.zeros(self.slots, v.channels, v.height, v.width, dtype=self.plan.dtype)
            self.states[name] = empty_state(op.gated, x, self.plan.dtype)

    def advance(self, frame: Tensor, counts: Counts) -> tuple[dict[int, Tensor], Counts]:
        due = dense = self.schedule.due(counts.age)
        values, states, shares = {0: frame}, {}, []
        for op in self.plan.ops:
            inputs = [values[v] for v in op.inputs]
            name = self.names.get(op.key)
            if name is None:
                values[op.output] = op.apply(inputs, self.plan.values[op.output])
                continue
            conv, before, first = op.convolution(frame.dtype), self.states[name], not shares
            cut, mask = self.schedule.cut if first else None, self.imposed.get(name)
            seen = skip_conv_step(inputs[0], op.gated, before, dense, cut, conv, mask)
            dense, states[name], self.open[name] = seen.dense, seen.state, seen.gate[:, 0] > 0.5
            opened = op.gated.expand(seen.gate, self.size_of(op)).double().mean((1, 2, 3))
            looked = torch.zeros(self.slots, dtype=torch.float64)
            if seen.changed is not None:  # at a cut the first gate has looked, and no other
                looked = seen.changed.double().mean((1, 2, 3)) * ~(due if first else dense)
            shares.append(torch.stack([opened, looked]))
            values[op.output] = op.activation(op.finish(seen.z, inputs[1:]))
        self.states = states
        outputs = {v: values[v].clone() for v in self.plan.outputs}
        return outputs, counts.after(torch.stack(shares), dense & ~due)

    def opened(self) -> dict[str, Tensor]:
        return {name: opened.clone() for name, opened in self.open.items()}

    def impose(self, masks) -> None:
        grids = {n: blocks_of(self.size_of(op), op.block) for n, op in self.layers.items()}
        found = {n: masks and masks.on(n, grid) for n, grid in grids.items()}
        self.imposed = {n: mask[:, None] for n, mask in found.items() if mask is not None}

    def buffers(self) -> dict[str, dict[str, dict[str, Tensor]]]:
        def fields(state: SkipState) -> dict[str, Tensor]:
            return {k: v for k, v in vars(state).items() if v is not None}

        return {"layers": {str(op.key): fields(self.states[n]) for n, op in self.layers.items()}}


@pytest.fixture(autouse=True)
def example() -> Iterator[type[Example]]:
    """Registered for as long as the test takes."""
    yield register_backend(Example)
    del BACKENDS["example"]


def make_net(gate: str, reference: str) -> nn.Module:
    class Net(nn.Module):
        """A layer that is called twice, a sum, and two outputs of which one is flat."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
            self.body, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.norm(self.stem(x)).relu()
            x = (self.body(self.body(x)) + x).relu()
            return {"map": self.head(x), "flat": x.mean((2, 3))}

    torch.manual_seed(0)
    return skippose.convert(Net(), GATES[gate], reference=reference).double().eval()


def make_video(frames: int, slots: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(slots, 3, 18, 23, dtype=torch.float64, generator=generator)
    video = video.repeat(frames, 1, 1, 1, 1)
    for t in range(frames):
        video[t, :, :, t : t + 6, 2 * t : 2 * t + 5] += 1.5
    return video


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("schedule", [{}, dict(refresh_every=4, cut=0.6)], ids=str)
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
def test_it_streams_as_eager_does(gate, reference, schedule):
    net, video = make_net(gate, reference), make_video(8)
    stream, eager = (Stream(net, backend=name, **schedule) for name in ("example", "eager"))
    for t, frame in enumerate(video):
        if t == 3:
            stream.reset([1]), eager.reset([1])
        close(stream(frame), eager(frame))
        found, expected = stream.masks(), eager.masks()
        assert found.keys() == expected.keys() == {"stem", "body", "body#1", "head"}
        for name, mask in expected.items():
            assert torch.equal(found[name].opened, mask.opened), (t, name)
            assert found[name][1:] == mask[1:]
    assert stream.backend == "example"
    report, expected = stream.report(), eager.report()
    assert 0.02 < report.sparsity < 0.98
    assert (report.frames, report.first_frames) == (expected.frames, expected.first_frames)
    for row, other in zip(report.layers, expected.layers, strict=True):
        assert row.same_layer(other)
        assert row.density_sum == pytest.approx(other.density_sum)
        assert row.gate_density_sum == pytest.approx(other.gate_density_sum)


@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
def test_its_state_moves(gate, reference):
    net, video = make_net(gate, reference), make_video(6)
    stream, other = (Stream(net, backend="example") for _ in range(2))
    for frame in video[:3]:
        stream(frame)
    other.load_state_dict(stream.state_dict())
    expected = [stream(frame) for frame in video[3:]]
    for frame, output in zip(video[3:], expected, strict=True):
        for name, found in other(frame).items():
            assert torch.equal(found, output[name])


def test_a_state_that_lacks_something_changes_nothing(example):
    net, video = make_net("input", "hold"), make_video(4)
    backends = [example(net, video[0], skippose.stream.Schedule()) for _ in range(3)]
    for backend in backends[:2]:
        backend.step(video[0]), backend.step(video[1])
    backends[2].step(video[3])
    good = backends[2].state_dict()
    for spoil in (
        lambda s: next(reversed(s["layers"].values())).pop("patches"),
        lambda s: next(iter(s["layers"].values())).update(more=torch.zeros(1)),
        lambda s: s.update(age=torch.zeros(3, dtype=torch.int64)),
        lambda s: s.update(form="of another kind"),
    ):
        state = {k: dict(v) if isinstance(v, dict) else v for k, v in good.items()}
        state["layers"] = {k: dict(v) for k, v in good["layers"].items()}
        spoil(state)
        with pytest.raises(ValueError, match="the state (is of a network|was made by another)"):
            backends[0].load_state_dict(state)
    close(backends[0].step(video[2]), backends[1].step(video[2]))


@pytest.mark.parametrize("reference", POLICIES)
def test_masks_are_imposed_and_taken_away(reference):
    net, video = make_net("input", reference), make_video(6)
    live, again = (Stream(net, backend="example") for _ in range(2))
    for t, frame in enumerate(video):
        output = live(frame)
        if t:
            again.fix_masks(live.masks())
        close(again(frame), output)
    assert again.report().densities == live.report().densities
    cells = torch.zeros(3, 3, dtype=torch.bool)
    cells[1] = True
    again.fix_masks(cells)
    again(video[0])
    shares = {name: float(m.opened.float().mean()) for name, m in again.masks().items()}
    assert all(0.2 <= share <= 0.4 for share in shares.values()), shares
    again.fix_masks(None)
    again(video[0])
    assert not any(bool(m.opened.all()) for m in again.masks().values()), "the gates are asked"


class Failing(Example):
    """Fails when it is told to, with something written."""

    name = "failing"
    fail = False

    def advance(self, frame: Tensor, counts: Counts) -> tuple[dict[int, Tensor], Counts]:
        self.broken = True
        if type(self).fail:
            for state in self.states.values():
                state.z.fill_(9)
            raise KeyboardInterrupt
        return super().advance(frame, counts)


@pytest.mark.parametrize("reference", POLICIES)
def test_after_a_frame_that_failed_the_next_is_dense_here_and_elsewhere(reference, monkeypatch):
    monkeypatch.setitem(BACKENDS, "failing", Failing)
    net, video = make_net("input", reference), make_video(4)
    stream, other = (Stream(net, backend="failing") for _ in range(2))
    stream(video[0])
    stream(video[1])
    before = stream.report()
    with monkeypatch.context() as now:
        now.setattr(Failing, "fail", True)
        with pytest.raises(KeyboardInterrupt):
            stream(video[2])
    assert stream.report() == before
    other.load_state_dict(stream.state_dict())
    with torch.no_grad():
        close(other(video[3]), net(video[3]))
        with pytest.warns(UserWarning, match="a frame failed.*dense in all slots"):
            close(stream(video[3]), net(video[3]))
    close(stream(video[0]), other(video[0]))
