"""Every gate in every backend: the mask is the gate's own, or the backend refuses by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose.backends import BACKENDS
from skippose.gates import GATES, Gate, InputNormGate
from skippose.plan.errors import BackendError
from tests.zoo import LargestChange

torch.set_num_threads(1)
POLICIES = ["hold", "previous"]
OTHERS = [name for name in BACKENDS if name != "eager"]
EXAMPLES = {
    f"{name}: {label}": gate
    for name, kind in GATES.items()
    for label, gate in kind.examples().items()
}


class Never(InputNormGate):
    """Opens nothing."""

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        return torch.zeros_like(score, dtype=torch.bool)


class Always(InputNormGate):
    """Opens whatever changed."""

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        return torch.ones_like(score, dtype=torch.bool)


class Band(InputNormGate):
    """Opens where the norm is neither small nor large."""

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        return super().decide(score, scale) & (score < 3 * self.threshold.limit(scale))


class Corner(LargestChange):
    """Opens where a pixel changed by much; no norm, no spec, and floats for an answer."""

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        return (score > 0.4).to(score.dtype)


USERS = {kind.__name__: kind for kind in (Never, Always, Band)}
OWN = {**{name: kind(0.3, block=2) for name, kind in USERS.items()}, "Corner": Corner(block=2)}


def make_net(gate: Gate, reference: str) -> nn.Module:
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 8, 3, 2, 1),
        nn.Conv2d(8, 4, 1),
    )
    return skippose.convert(dense, gate, reference=reference).eval()


def make_video(frames: int = 7) -> Tensor:
    """(frames, 2, 3, 17, 22): something moves, something drifts, much stands still."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(1, 2, 3, 17, 22, generator=generator).repeat(frames, 1, 1, 1, 1)
    for t in range(frames - 1):
        video[t, :, :, 2 * t : 2 * t + 5, 3:9] += 2 * torch.randn(2, 3, 5, 6, generator=generator)
        video[t, :, :, :, -4:] += 0.1 * t
    video[-1] = video[-2]  # a still frame at the end
    return video


def masks_of(net: nn.Module, video: Tensor, backend: str) -> list[dict[str, Tensor]]:
    """What opened, frame by frame; slot 1 begins anew in the fifth."""
    stream, found = skippose.Stream(net, backend=backend, cut=0.97, refresh_every=5), []
    for t, frame in enumerate(video):
        if t == 4:
            stream.reset([1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream(frame)
        found.append({name: mask.opened for name, mask in stream.masks().items()})
    return found


def unlike_eager(gate: Gate, reference: str, backend: str) -> tuple[list[str], float]:
    """The layers and frames whose masks are not those of the step form, and how much was open."""
    reason = BACKENDS[backend].unavailable()
    if reason is not None:
        pytest.skip(f"no backend {backend!r}: {reason}")
    net, video = make_net(gate, reference), make_video()
    if backend != "native":  # which computes in float32
        net, video = net.double(), video.double()
    expected, found = masks_of(net, video, "eager"), masks_of(net, video, backend)
    wrong = [
        f"frame {t}, layer {name}"
        for t, masks in enumerate(expected)
        for name in masks
        if not torch.equal(found[t][name], masks[name])
    ]
    assert all(masks.keys() == expected[0].keys() for masks in found)
    shares = [mask.float().mean() for t in (1, 2, 3) for mask in expected[t].values()]
    return wrong, float(sum(shares) / len(shares))


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", EXAMPLES)
def test_masks_are_those_of_the_step_form(gate, reference, backend):
    wrong, share = unlike_eager(EXAMPLES[gate], reference, backend)
    assert not wrong
    assert 0.02 < share < 0.98, "the gate must be live for this test to say anything"


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", OWN)
def test_a_gate_of_a_users_own_is_asked_or_refused_by_name(gate, reference, backend):
    try:
        wrong, share = unlike_eager(OWN[gate], reference, backend)
    except BackendError as error:
        assert f"layer 0#0: {gate} states no spec" in str(error)
        assert backend != "torch", "which runs any gate on whole maps"
        return
    assert not wrong
    assert share == 0 if gate == "Never" else 0.02 < share < 0.98


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", [*EXAMPLES, *OWN])
def test_masks_of_eager_are_those_of_clips(gate, reference):
    net, video = make_net((EXAMPLES | OWN)[gate], reference).double(), make_video().double()[:, :1]
    with skippose.clips(len(video), keep_masks=True) as run, torch.no_grad():
        net(video[:, 0])
    records = dict(zip(("0", "3", "4"), run.records.values(), strict=True))
    stream = skippose.Stream(net, backend="eager")
    for t, frame in enumerate(video):
        stream(frame)
        for name, mask in stream.masks().items():
            assert torch.equal(mask.opened, records[name].gate[:, t, 0]), (t, name)
            assert (mask.block, mask.size) == (records[name].block, records[name].out_size)
