"""Streams on a GPU: the same results as on the CPU, and no layer that waits for the host."""

import warnings

import pytest
import torch

import skippose
from skippose import ExactNormGate, GumbelGate, InputNormGate, OutputNormGate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GATES = {
    "input": lambda b: InputNormGate(0.3, block=b),
    "output": lambda b: OutputNormGate(0.6, block=b),
    "exact": lambda b: ExactNormGate(0.4, block=b),
    "gumbel": lambda b: GumbelGate(init_open=-0.1, block=b),
    "rectified": lambda b: GumbelGate(init_open=-0.1, block=b, rectify=True),
}
POLICIES = ["hold", "previous"]


def make_net(make_hrnet, gate, reference, modules=(1, 1, 1)):
    torch.manual_seed(0)
    net = make_hrnet(8, modules=modules, blocks=1)
    return skippose.convert(net, GATES[gate](4), reference=reference).double().eval()


def syncs(run) -> int:
    """How often the host waited for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(w.message) for w in found)


@pytest.mark.parametrize("backend", ["torch", "eager"])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
def test_streams_give_what_they_give_on_a_cpu(
    gate, reference, backend, make_hrnet, make_moving_video
):
    net = make_net(make_hrnet, gate, reference)
    video = make_moving_video(5, 2, (63, 95)).double()
    there = skippose.Stream(make_net(make_hrnet, gate, reference).cuda(), backend=backend)
    here = skippose.Stream(net, backend=backend)
    for frame in video:
        torch.testing.assert_close(there(frame.cuda()).cpu(), here(frame), rtol=1e-8, atol=1e-8)
    report, expected = there.report(), here.report()
    assert report.densities == pytest.approx(expected.densities, abs=1e-6)
    assert 0 < report.gmacs == pytest.approx(expected.gmacs, rel=1e-6)


@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
def test_no_layer_waits_for_the_host(gate, reference, make_hrnet, make_moving_video):
    counts = []
    for modules in ((1, 1, 1), (1, 3, 2)):
        net = make_net(make_hrnet, gate, reference, modules).cuda()
        video = make_moving_video(4, 1, (64, 64)).double().cuda()
        stream = skippose.Stream(net, backend="torch")
        for frame in video[:3]:
            stream(frame)
        counts.append(syncs(lambda stream=stream, frame=video[3]: stream(frame)))
    assert counts[0] == counts[1] <= 2, f"with few and with many layers: {counts}"


class WaitingGate(InputNormGate):
    """Asks the device how large the largest score is."""

    def decide(self, score, scale):
        return super().decide(score, scale) & (score.max().item() > 0)


def test_a_gate_that_waits_is_said(make_hrnet, make_moving_video):
    net = skippose.convert(make_hrnet(8, modules=(1, 1, 1), blocks=1), WaitingGate(0.3)).eval()
    net, frame = net.cuda(), make_moving_video(1, 1, (64, 64))[0].cuda()
    with pytest.raises(ValueError, match="wait for the device.*backend='eager'"):
        skippose.Stream(net, backend="torch")(frame)
    with pytest.warns(UserWarning, match="'eager'; .*wait for the device"):
        out = skippose.Stream(net)(frame)
    torch.testing.assert_close(out, net(frame), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["torch", "eager"])
def test_sums_of_updates_do_not_drift_by_tf32(backend, make_hrnet, make_moving_video):
    """Rounded to TF32, updates would not add up to the frame."""
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.0), reference="previous").eval()
    exact = skippose.Stream(net.double().cuda(), backend=backend)
    video = make_moving_video(12, 1, (64, 64)).cuda()
    frames = [video[t % 12] for t in range(120)]
    expected = [exact(frame.double()) for frame in frames][-1]
    stream = skippose.Stream(net.float(), backend=backend)
    found = [stream(frame) for frame in frames][-1]
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < 2e-5


@pytest.mark.parametrize("reference", POLICIES)
def test_a_stream_moves_and_begins_anew(reference, make_hrnet, make_moving_video):
    net = make_net(make_hrnet, "exact", reference).cuda()
    video = make_moving_video(7, 2, (64, 64)).double().cuda()
    first, second, whole = (skippose.Stream(net, backend="torch") for _ in range(3))
    for frame in video[:3]:
        first(frame), whole(frame)
    second.load_state_dict(first.state_dict())
    for t, frame in enumerate(video[3:]):
        if t == 2:
            second.reset([1]), whole.reset([1])
        assert torch.equal(second(frame), whole(frame))
    outputs = [whole(frame) for frame in video[:2]]
    assert not torch.equal(*outputs), "an output lies where the next one is written"


@pytest.mark.parametrize("reference", POLICIES)
def test_masks_are_told_and_imposed(reference, make_hrnet, make_moving_video):
    net = make_net(make_hrnet, "input", reference)
    video = make_moving_video(7, 2, (64, 64)).double()
    live, again = (
        skippose.Stream(make_net(make_hrnet, "input", reference).cuda(), backend="torch")
        for _ in range(2)
    )
    here = skippose.Stream(net, backend="torch")
    for t, frame in enumerate(video):
        output = live(frame.cuda())
        here(frame)
        for name, mask in here.masks().items():
            assert torch.equal(live.masks()[name].opened.cpu(), mask.opened), (t, name)
        if t == 4:
            again.fix_masks(None)
        elif t:
            again.fix_masks(live.masks())
        torch.testing.assert_close(again(frame.cuda()), output)
    assert again.report().densities == pytest.approx(live.report().densities)
    assert 0.02 < live.report().sparsity < 0.98


def test_a_wait_would_be_counted():
    assert syncs(lambda: torch.ones(3, device="cuda").sum().item()) == 1


@pytest.mark.parametrize("backend", ["torch", "eager"])
def test_a_frame_with_nan_changes_nothing(backend, make_hrnet, make_moving_video):
    net = make_net(make_hrnet, "input", "hold").cuda()
    video = make_moving_video(4, 1, (64, 64)).double().cuda()
    stream, other = (skippose.Stream(net, backend=backend) for _ in range(2))
    for frame in video[:2]:
        stream(frame), other(frame)
    broken = video[2].clone()
    broken[0, 1, 3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        stream(broken)
    for frame in video[2:]:
        assert torch.equal(stream(frame), other(frame))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precisions_stay_near_float64(dtype, make_hrnet, make_moving_video, monkeypatch):
    """All open, so that no gate within rounding of its threshold decides."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.0, scale="absolute", block=4)).eval()
    video = make_moving_video(4, 1, (64, 64))
    exact = skippose.Stream(skippose.convert(net, InputNormGate(0.0, "absolute")).double())
    stream = skippose.Stream(net.to("cuda", dtype), backend="torch")
    for frame in video:
        expected = exact(frame.double())
        error = (stream(frame.to("cuda", dtype)).double().cpu() - expected).abs().max()
        assert error < 60 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
def test_the_clip_form_is_that_of_a_cpu(gate, reference, make_hrnet, make_moving_video):
    video = make_moving_video(4, 1, (63, 64)).double()[:, 0]
    found = []
    for device in ("cpu", "cuda"):
        net = make_net(make_hrnet, gate, reference).to(device)
        frames = video.to(device).detach().requires_grad_()
        with skippose.clips(4) as run:
            out = net(frames)
        out.square().sum().backward()
        found.append((out.detach().cpu(), frames.grad.cpu(), run.report(net).gmacs))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-7, atol=1e-7)
    assert found[1][2] == pytest.approx(found[0][2])
