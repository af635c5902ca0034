"""Masks of streams: told, imposed, and refused where they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import skippose
from skippose import InputNormGate, Stream
from skippose.backends import BACKENDS, Backend
from skippose.backends.eager.backend import EagerBackend
from skippose.backends.torch_blocks.backend import BlocksBackend
from skippose.backends.torch_maps.backend import MapsBackend

torch.set_num_threads(1)
IMPOSING = [n for n, kind in BACKENDS.items() if kind.fix_masks is not Backend.fix_masks]


@pytest.fixture(params=[*IMPOSING, "whole maps"])
def backend(request, monkeypatch) -> str:
    """All that impose masks, also the one that serves as 'torch' elsewhere than on a CPU."""
    if request.param == "whole maps":
        make = classmethod(lambda cls, *given, **options: MapsBackend(*given, **options))
        monkeypatch.setattr(BlocksBackend, "make", make)
        return "torch"
    if reason := BACKENDS[request.param].unavailable():
        pytest.skip(f"no backend {request.param!r}: {reason}")
    return request.param


def make_net(reference: str = "hold") -> nn.Module:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))
    gate = InputNormGate(0.3, block=4, block_mode="fixed")
    return skippose.convert(dense, gate, reference=reference).eval()


def make_video(frames: int, slots: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(slots, 3, 18, 26, generator=generator).repeat(frames, 1, 1, 1, 1)
    for t in range(frames):
        video[t, :, :, 2 * t : 2 * t + 5, 3:9] += torch.randn(slots, 3, 5, 6, generator=generator)
    return video


@pytest.mark.parametrize("name", BACKENDS)
def test_there_are_none_before_the_first_frame_and_after_reset(name):
    stream = Stream(make_net(), backend=name)
    for _ in range(2):
        with pytest.raises(ValueError, match="no frame was computed yet.*a frame first"):
            stream.masks()
        with pytest.raises(ValueError, match="imposed after the first frame.*a frame first"):
            stream.fix_masks(None)
        if BACKENDS[name].unavailable() is None:
            stream(make_video(1)[0])
        stream.reset()


@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_a_state_brings_no_masks_and_takes_some(reference, backend):
    net, video = make_net(reference), make_video(3)
    stream, other = (Stream(net, backend=backend) for _ in range(2))
    stream(video[0])
    other.load_state_dict(stream.state_dict())
    with pytest.raises(ValueError, match="no frame was computed yet"):
        other.masks()
    for s in (stream, other):
        s.fix_masks(torch.tensor([[True, False]]))
    torch.testing.assert_close(other(video[1]), stream(video[1]))
    for name, mask in stream.masks().items():
        assert 0 < mask.opened.float().mean() < 1
        assert torch.equal(other.masks()[name].opened, mask.opened)


def test_a_backend_without_masks_says_so(monkeypatch):
    plain = type("Plain", (EagerBackend,), {"name": "plain", "masks": Backend.masks})
    monkeypatch.setitem(BACKENDS, "plain", plain)
    stream = Stream(make_net(), backend="plain")
    stream(make_video(1)[0])
    with pytest.raises(ValueError, match="'plain' does not tell its masks"):
        stream.masks()
    with pytest.raises(ValueError, match="'plain' does not impose masks.*backend='torch'"):
        stream.fix_masks(None)


@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_masks_of_live_gates_do_the_same_again(reference, backend):
    net, video = make_net(reference), make_video(6)
    live, again = (Stream(net, backend=backend) for _ in range(2))
    for t, frame in enumerate(video):
        output = live(frame)
        if t:
            again.fix_masks(live.masks())
        torch.testing.assert_close(again(frame), output)
        for name, mask in live.masks().items():
            assert torch.equal(again.masks()[name].opened, mask.opened)
    assert 0.05 < live.report().sparsity < 0.95
    assert again.report().densities == pytest.approx(live.report().densities)


def test_masks_are_copies(backend):
    video = make_video(3)
    stream, other = (Stream(make_net(), backend=backend) for _ in range(2))
    stream(video[0]), other(video[0])
    given = stream.masks()
    before = {name: mask.opened.clone() for name, mask in given.items()}
    stream(video[1])
    assert all(torch.equal(mask.opened, before[name]) for name, mask in given.items())
    other.fix_masks(given)
    for mask in given.values():
        mask.opened.fill_(False)
    other(video[1])
    assert all(bool(mask.opened.all()) for mask in other.masks().values())


def test_the_layers_that_get_no_mask_ask_their_gates(backend):
    net, video = make_net(), make_video(3)
    stream, live = (Stream(net, backend=backend) for _ in range(2))
    for s in (stream, live):
        s(video[0])
    closed = {"2": stream.masks()["2"]}
    closed["2"].opened.fill_(False)
    stream.fix_masks(closed)
    stream(video[1]), live(video[1])
    assert not bool(stream.masks()["2"].opened.any())
    assert bool(live.masks()["2"].opened.any())
    assert torch.equal(stream.masks()["0"].opened, live.masks()["0"].opened)


def test_masks_that_do_not_fit_change_nothing(backend):
    net, video = make_net(), make_video(4)
    stream, other = (Stream(net, backend=backend) for _ in range(2))
    stream(video[0]), other(video[0])
    good = other.masks()
    one_slot = good["2"]._replace(opened=good["2"].opened[:1])
    grey = good["2"]._replace(opened=good["2"].opened.float())
    for masks, message in (
        (torch.ones(3, 3), r"bool tensor \(rows, columns\), got \(3, 3\) of torch.float32"),
        (torch.ones(2, 3, 3, dtype=torch.bool), r"got \(2, 3, 3\)"),
        (torch.ones(0, 3, dtype=torch.bool), r"got \(0, 3\)"),
        ({**good, "2": one_slot}, r"'2' is \(1, 3, 4\) of torch.bool; expected \(2, 3, 4\)"),
        ({**good, "2": grey}, r"'2' is \(2, 3, 4\) of torch.float32; expected .*bool"),
        ({**good, "1": good["2"]}, r"'1', which is no gated layer.*\['0', '2'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.fix_masks(masks)
    for frame in video[1:]:
        assert torch.equal(stream(frame), other(frame))


def test_cells_divide_the_frame(backend):
    stream, video = Stream(make_net(), backend=backend), make_video(3)
    stream(video[0])
    cells = torch.tensor([[True, False], [False, False]])
    stream.fix_masks(cells)
    stream(video[1])
    opened = stream.masks()["0"].opened  # 18 x 26 outputs in 5 x 7 blocks
    assert bool(opened[:, :2, :3].all()) and int(opened.sum()) == 2 * 2 * 3
    stream.fix_masks(None)
    stream(video[1])
    stream(video[1])
    assert not any(bool(mask.opened.any()) for mask in stream.masks().values())
