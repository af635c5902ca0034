"""The native backend equals the step form, with every set of instructions that this CPU has."""

import multiprocessing
import os
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn

import skippose
from skippose import ExactNormGate, GumbelGate, InputNormGate, OutputNormGate, Stream
from skippose import stream as stream_module
from skippose.backends.native import library
from skippose.backends.native.backend import NativeBackend
from skippose.backends.native.library import Isa, has
from skippose.ops.schedule import Schedule
from skippose.plan.errors import BackendError
from tests.zoo import Everything

pytestmark = pytest.mark.skipif(
    NativeBackend.unavailable() is not None,
    reason=f"no native backend: {NativeBackend.unavailable()}",
)
torch.set_num_threads(1)

GATES = {
    "input": lambda b: InputNormGate(0.3, block=b),
    "rms": lambda b: InputNormGate(0.4, p=2, block=b),
    "largest": lambda b: InputNormGate(0.9, p="inf", block=b),
    "raw": lambda b: InputNormGate(30.0, scale="absolute", normalize=False, block=b),
    "output": lambda b: OutputNormGate(0.6, block=b),
    "exact": lambda b: ExactNormGate(0.4, block=b),
    "gumbel": lambda b: GumbelGate(init_open=-0.1, block=b),
    "rectified": lambda b: GumbelGate(init_open=-0.1, block=b, rectify=True),
    "frame": lambda b: GumbelGate(init_open=-0.2, block=b, source="frame"),
}
POLICIES = ["hold", "previous"]
ISAS = [
    pytest.param(i, marks=pytest.mark.skipif(not has(i), reason=f"this CPU has no {i.name}"))
    for i in Isa
]


@pytest.fixture(params=ISAS, ids=lambda isa: isa.name)
def isa(request, monkeypatch) -> Isa:
    """Every set of instructions, forced."""
    monkeypatch.setattr(NativeBackend, "isa", request.param)
    return request.param


def everything(gate: skippose.Gate, reference: str, lively) -> nn.Module:
    """The network converted, its transposed convolutions dense."""
    net = lively(Everything())
    overrides = {"up": None, "uneven": None}
    return skippose.convert(net, gate, reference=reference, overrides=overrides).eval()


def densities(check) -> float:
    found = list(check.backend.report().densities.values())
    return sum(found) / len(found)


@pytest.mark.pairwise
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
def test_layer_by_layer(
    gate, reference, slots, isa, follow, make_lively, make_moving_video
) -> None:
    net = everything(GATES[gate](2), reference, make_lively)
    schedule = Schedule(refresh_every=5, cut=0.95)
    video = make_moving_video(7, slots, (63, 52))
    check = follow(net, video[0], schedule, 2e-5, 2e-5, kind=NativeBackend, threads=2)
    for frame in video:
        check.step(frame)
    assert 0.02 < densities(check) < 0.98, "live gates"
    assert check.masks_near < 0.01 * check.masks_seen


@pytest.mark.pairwise
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", ["input", "gumbel"])
def test_blocks_of_one_output(
    gate, reference, slots, isa, follow, make_lively, make_moving_video
) -> None:
    """Four of them run as one where any of them is open; the closed ones keep what they hold."""
    dense = nn.Sequential(
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1)
    )
    net = skippose.convert(make_lively(dense), GATES[gate](1), reference=reference).eval()
    video = make_moving_video(5, slots, (21, 19)).repeat(1, 1, 6, 1, 1)[:, :, :16]
    options = dict(kind=NativeBackend, threads=2)
    check = follow(net, video[0], Schedule(), 2e-5, 2e-5, **options)
    for frame in video:
        check.step(frame)
    assert 0.02 < densities(check) < 0.98, "live gates"
    assert check.masks_near < 0.01 * check.masks_seen


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("block", [2, 4])
@pytest.mark.parametrize("gate", ["input", "exact", "gumbel"])
def test_layer_by_layer_in_half_precision(
    gate, block, reference, isa, follow, make_lively, make_moving_video
) -> None:
    """Stated bound: an output is within 2% of its layer's largest, a score within 3%."""
    net = everything(GATES[gate](block), reference, make_lively)
    video = make_moving_video(5, 2, (63, 52))
    options = dict(kind=NativeBackend, precision="bfloat16", threads=1)
    check = follow(net, video[0], Schedule(), 0.03, 0.02, **options)
    for frame in video:
        check.step(frame)
    assert 0.02 < densities(check) < 0.98, "live gates"


SMALL, LARGE = (19, 23), (33, 37)
"""Below and above the size from which on tiles of 4x4 outputs are used."""


@pytest.mark.pairwise
@pytest.mark.parametrize(
    ("block", "size"), [*((b, SMALL) for b in (1, 2, 4, 6)), *((b, LARGE) for b in (2, 4, 8))]
)
@pytest.mark.parametrize("channels", [(16, 32), (24, 20), (40, 64)])
def test_an_output_does_not_depend_on_which_other_blocks_are_open(
    channels, block, size, isa
) -> None:
    """3x3 convolutions at stride 1, by Winograd's form at even blocks; no block divides the map."""
    torch.manual_seed(0)
    dense = nn.Conv2d(*channels, 3, padding=1).eval()
    gate = InputNormGate(0.0, scale="absolute", block=block, block_mode="fixed")
    net = skippose.convert(dense, gate).eval()
    frame = torch.randn(2, channels[0], *size)
    stream = Stream(net, backend="native", threads=2)
    expected = dense(frame).double()
    torch.testing.assert_close(stream(frame).double(), expected, rtol=1e-5, atol=1e-5)
    for t in range(3):
        frame = frame.clone()
        frame[:, :, 3 * t : 3 * t + 2, 4 * t : 4 * t + 3] += 1
        found = stream(frame)
        assert torch.equal(found, Stream(net, backend="native", threads=1)(frame))
    assert 0 < stream.report().gmacs < 0.9 * stream.report().dense_gmacs


@pytest.mark.parametrize("reference", POLICIES)
def test_an_hrnet_free_running(reference, make_hrnet, make_moving_video) -> None:
    """Masks may flip within rounding; here none does, and outputs stay together."""
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.3, block=4), reference=reference).eval()
    native, eager = Stream(net, backend="native", threads=2), Stream(net, backend="eager")
    for frame in make_moving_video(6, 2, (64, 96)):
        torch.testing.assert_close(native(frame), eager(frame), rtol=1e-4, atol=1e-4)
    assert native.backend == "native"
    found, expected = native.report(), eager.report()
    assert found.gmacs == pytest.approx(expected.gmacs, rel=1e-6)
    assert found.first_gmacs == pytest.approx(expected.first_gmacs)


@pytest.mark.slow
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("size", [(256, 256), (256, 192), (255, 191)])
@pytest.mark.parametrize("width", [18, 32])
def test_hrnet_layer_by_layer_on_real_video(
    width, size, reference, follow, make_hrnet, make_real_video
) -> None:
    net = make_hrnet(width)
    net = skippose.convert(net, InputNormGate(0.2, block=4), reference=reference).eval()
    video = make_real_video(4, 1, size)
    check = follow(net, video[0], Schedule(), 1e-4, 1e-4, kind=NativeBackend, threads=2)
    for frame in video:
        check.step(frame)
    assert check.masks_near < 0.01 * check.masks_seen


class OfTheFrame(nn.Module):
    """Adds and joins the frame itself, which lies in memory as no other map does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.same, self.next = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = torch.relu(self.same(x) + x)
        return self.next(y) + x, y * x, torch.cat([x, y], 1)


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_frame_itself_is_added(precision, channels, reference, isa, follow, make_lively):
    net = make_lively(OfTheFrame(channels))
    net = skippose.convert(net, InputNormGate(0.3, block=2), reference=reference).eval()
    bounds = (2e-5, 2e-5) if precision == "float32" else (0.03, 0.02)
    frame = torch.randn(2, channels, 17, 19)
    check = follow(net, frame, Schedule(), *bounds, kind=NativeBackend, precision=precision)
    for t in range(4):
        check.step(frame)
        frame = frame.clone()
        frame[:, :, 2 * t : 2 * t + 5, 3:9] = torch.randn(2, channels, 5, 6)
    assert 0.02 < densities(check) < 0.98, "live gates"


def test_all_open_is_dense_and_all_closed_is_the_first(make_hrnet, make_moving_video) -> None:
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    video = make_moving_video(3, 1, (64, 64))
    opened = skippose.convert(net, InputNormGate(0.0)).eval()
    stream = Stream(opened, backend="native")
    for frame in video:
        torch.testing.assert_close(stream(frame), net(frame), rtol=1e-4, atol=1e-4)
    closed = skippose.convert(net, InputNormGate(1e9)).eval()
    stream = Stream(closed, backend="native")
    first = stream(video[0])
    for frame in video[1:]:
        assert torch.equal(stream(frame), first)
    assert stream.report().gmacs == 0


def test_fixed_masks_are_the_shares_asked_for(make_hrnet, make_moving_video) -> None:
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.3, block=4)).eval()
    video = make_moving_video(3, 1, (64, 64))
    backend = NativeBackend(net, video[0], Schedule())
    backend.step(video[0])
    cells = torch.zeros(4, 4, dtype=torch.bool)
    cells[:2] = True
    backend.fix_masks(cells)
    backend.step(video[1])
    assert set(backend.report().densities.values()) == {0.5}
    backend.fix_masks(None)
    backend.step(video[1])
    assert backend.report().gmacs < 0.3 * backend.report().dense_gmacs


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_changes_that_come_and_go_add_up_to_none(precision, make_hrnet, make_moving_video) -> None:
    """Bounds add up what each frame moves; what is held decides once they are above the limit."""
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.3, block=4)).eval()
    scene, noise = (
        make_moving_video(1, 2, (64, 64))[0],
        make_moving_video(1, 2, (64, 64), seed=1)[0],
    )
    backend = NativeBackend(net, scene, Schedule(), precision=precision, threads=2)
    backend.step(scene)
    for t in range(40):  # a hundredth up, a hundredth down
        backend.step(scene + (0.01 * noise if t % 2 else 0))
    assert backend.report().gmacs == 0
    for t in range(40):  # a hundredth up, and up
        backend.step(scene + 0.01 * t * noise)
    assert backend.report().gmacs > 0.001 * backend.report().dense_gmacs


def test_masks_that_gates_gave_can_be_imposed(make_hrnet, make_moving_video) -> None:
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.3, block=4)).eval()
    video = make_moving_video(5, 2, (64, 64))
    live, replayed = (NativeBackend(net, video[0], Schedule()) for _ in range(2))
    for t, frame in enumerate(video):
        expected = live.step(frame)
        if t:
            replayed.fix_masks(live.masks())
        assert torch.equal(replayed.step(frame), expected)
    assert replayed.report().densities == live.report().densities
    assert 0.05 < live.report().gmacs / live.report().dense_gmacs < 0.8


def one_layer(gate: InputNormGate | GumbelGate, channels: int = 8, kernel: int = 3) -> nn.Module:
    """A network of one gated convolution."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, channels, kernel, padding=kernel // 2))
    return skippose.convert(net, gate=gate).eval()


@pytest.mark.parametrize("p", [1, 2])
def test_a_gate_whose_mask_is_released_knows_what_moved_meanwhile(p) -> None:
    net = one_layer(InputNormGate(0.1, scale="absolute", p=p, block=4, block_mode="fixed"))
    stream = Stream(net, backend="native")
    frame = torch.randn(1, 8, 16, 16)
    stream(frame)
    stream.fix_masks(torch.zeros(1, 1, dtype=torch.bool))
    frame = frame.clone()
    frame[:, :, 4:8, 4:8] += 5
    stream(frame)
    stream.fix_masks(None)
    frame = frame.clone()
    frame[:, :, 8, 8] += 0.2  # the block above reads this pixel
    torch.testing.assert_close(stream(frame), net(frame), rtol=1e-4, atol=1e-4)


def test_after_memory_ran_out_in_a_frame_the_next_is_dense(monkeypatch) -> None:
    net, frames = one_layer(InputNormGate(1e6)), torch.randn(3, 1, 8, 16, 16)
    stream = Stream(net, backend="native")
    stream(frames[0])
    with monkeypatch.context() as now:
        now.setattr(library.load()[0], "skp_run", lambda *_: library.Status.no_memory)
        with pytest.raises(MemoryError, match="no memory"):
            stream(frames[1])
    with pytest.warns(UserWarning, match="a frame failed.*dense in all slots"):
        torch.testing.assert_close(stream(frames[2]), net(frames[2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), [((0.5, 1), (0.1, 1)), ((0.5, 2), (0.1, 1))])
def test_a_state_goes_on_under_another_threshold_and_norm(before, after) -> None:
    def make(eps: float, p: int) -> nn.Module:
        gate = InputNormGate(eps, p=p, scale="absolute", block=4, block_mode="fixed")
        return one_layer(gate, channels=4, kernel=1)

    first = torch.randn(1, 4, 8, 8)
    moved = first.clone()
    moved[:, :, 0, 0] += 0.2  # below the first threshold and above the second
    again = moved.clone()
    again[:, :, 0, 2] += 0.01  # another pixel of the same block
    outputs = []
    for backend in ("eager", "native"):
        stream = Stream(make(*before), backend=backend)
        stream(first)
        stream(moved)
        goes_on = Stream(make(*after), backend=backend)
        goes_on.load_state_dict(stream.state_dict())
        outputs.append(goes_on(again))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs[0], make(*after)(again), rtol=1e-5, atol=1e-5)


def test_what_gates_compute_in_a_frame_that_is_cut_is_the_same_in_all_backends() -> None:
    net = one_layer(GumbelGate(init_open=5.0))
    frame = torch.randn(1, 8, 16, 16)
    moved = frame.clone()
    moved[:, :, :8] += 1  # half of the rows
    gmacs = []
    for backend in ("native", "torch", "eager"):
        stream = Stream(net, backend=backend, cut=0.1)
        stream(frame)
        stream(moved)
        gmacs.append(stream.report().gate_gmacs)
    with skippose.clips(2, cut=0.1) as run:
        net(torch.cat([frame, moved]))
    gmacs.append(run.report(net).gate_gmacs)
    # Outputs that read a row that changed, of one channel.
    assert gmacs == pytest.approx([9 * 16 * 9 * 8 / 1e9] * 4)


@pytest.mark.parametrize(("then", "status"), [("frame", 7), ("delete", 0)])
def test_a_forked_process_is_told_and_does_not_hang(then, status) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    stream = Stream(one_layer(InputNormGate(0.1)), backend="native", threads=2)
    frame = torch.randn(1, 8, 32, 32)
    stream(frame)

    def child() -> None:
        nonlocal stream
        if then == "delete":
            del stream
            os._exit(0)
        try:
            stream(frame + 1)
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(2)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    hung = process.exitcode is None
    if hung:
        process.kill()
        process.join()
    assert not hung
    assert process.exitcode == status
    torch.testing.assert_close(stream(frame + 1), stream.net(frame + 1), rtol=1e-4, atol=1e-4)


def test_streams_in_threads_share_a_network(make_hrnet, make_moving_video) -> None:
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.2, block=4)).eval()
    videos = [make_moving_video(6, 1, (64, 64), seed=s) for s in range(3)]

    def play(video: Tensor) -> list[Tensor]:
        stream = Stream(net, backend="native", threads=2)
        return [stream(frame) for frame in video]

    expected, found = [play(v) for v in videos], [[] for _ in videos]
    workers = [
        threading.Thread(target=lambda i=i: found[i].extend(play(videos[i]))) for i in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(expected, found, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.pairwise
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_state_goes_on_bit_equal(
    precision, gate, reference, make_lively, make_moving_video
) -> None:
    net = everything(GATES[gate](2), reference, make_lively)
    video = make_moving_video(6, 2, (48, 40))
    here = Stream(net, backend="native", precision=precision)
    for frame in video[:3]:
        here(frame)
    there = Stream(net, backend="native", precision=precision)
    there.load_state_dict(here.state_dict())
    for frame in video[3:]:
        for a, b in zip(here(frame), there(frame), strict=True):
            assert torch.equal(a, b)


@pytest.mark.pairwise
@pytest.mark.parametrize("gate", ["input", "output", "exact", "gumbel"])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("bfloat16", 2)])
def test_the_report_shows_the_state_and_it_is_small(
    precision, size, reference, gate, make_hrnet, make_moving_video
) -> None:
    """At most 2.5 times the inputs and outputs of all convolutions, at blocks of 4 and 8."""
    plain = make_hrnet(32, modules=(1, 1, 1), blocks=1)
    for block in (4, 8):
        net = skippose.convert(plain, GATES[gate](block), reference=reference).eval()
        seen = 0

        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal seen
            seen += inputs[0].numel() + output.numel()

        frame = make_moving_video(1, 2, (64, 64))[0]
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        net(frame)
        for hook in hooks:
            hook.remove()
        stream = Stream(net, backend="native", precision=precision)
        stream(frame)
        memory = stream.report().memory
        assert memory.conv_bytes == seen * size
        assert 0.5 < memory.ratio <= 2.5
        assert str(stream.report()).endswith(str(memory))
        before = memory.state_bytes
        stream(frame + 1)
        stream.reset()
        assert stream.report().memory.state_bytes == before, "kept in what is past"


def test_refused_frames_change_nothing(make_hrnet, make_moving_video) -> None:
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.2, block=4)).eval()
    video = make_moving_video(4, 1, (64, 64))
    clean, dirty = Stream(net, backend="native"), Stream(net, backend="native")
    for frame in video:
        bad = frame.clone()
        bad[0, 1, 5, 5] = float("nan")
        if dirty.slots:
            with pytest.raises(ValueError, match="NaN or Inf"):
                dirty(bad)
            with pytest.raises(ValueError, match="shape"):
                dirty(frame[..., :32])
        assert torch.equal(dirty(frame), clean(frame))
    assert str(dirty.report()) == str(clean.report())


@pytest.mark.parametrize(
    ("options", "frame", "message"),
    [
        ({"precision": "float16"}, torch.zeros(1, 3, 64, 64), "precision must be 'float32' or"),
        ({"threads": 0}, torch.zeros(1, 3, 64, 64), "threads must be an integer of at least 1"),
        ({}, torch.zeros(1, 3, 64, 64, dtype=torch.float64), "float32 frames on a CPU"),
    ],
)
def test_what_it_does_not_take(options, frame, message, make_hrnet) -> None:
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1).to(frame.dtype)
    net = skippose.convert(net, InputNormGate(0.2)).eval()
    with pytest.raises(ValueError, match=message):
        Stream(net, backend="native", **options)(frame)


def test_other_paddings_are_left_to_the_other_backends() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")).eval()
    net = skippose.convert(net, InputNormGate(0.1)).eval()
    frame = torch.randn(1, 3, 16, 16)
    with pytest.raises(BackendError, match="pads with zeros, not reflect"):
        Stream(net, backend="native")(frame)
    with pytest.warns(UserWarning, match="not 'native'"):
        stream = Stream(net)
        stream(frame)
    assert stream.backend == "torch"


@pytest.mark.parametrize(("kernel", "stride"), [(24, 1), (48, 2)])
def test_large_kernels_are_left_to_the_other_backends(kernel, stride) -> None:
    up = nn.ConvTranspose2d(4, 2, kernel, stride)  # 576 taps for each output
    net = skippose.convert(
        nn.Sequential(nn.Conv2d(3, 4, 1), up), InputNormGate(0.1), lambda m, n: n == "0"
    )
    with pytest.raises(BackendError, match="layer 1#0: 576 taps.*at most 512"):
        Stream(net.eval(), backend="native")(torch.randn(1, 3, 16, 16))


def test_without_the_library_the_portable_backend_serves(monkeypatch, make_hrnet) -> None:
    monkeypatch.setattr(library, "PATH", library.PATH.with_name("absent.so"))
    library.load.cache_clear()
    try:
        net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
        net = skippose.convert(net, InputNormGate(0.2)).eval()
        stream_module._said.clear()
        stream = Stream(net)
        with pytest.warns(UserWarning, match="backend 'torch'; not 'native': it was not compiled"):
            stream(torch.zeros(1, 3, 64, 64))
        with warnings.catch_warnings():  # once
            warnings.simplefilter("error")
            Stream(net)(torch.zeros(1, 3, 64, 64))
        with pytest.raises(ValueError, match="'native' is not available: it was not compiled"):
            Stream(net, backend="native")
    finally:
        library.load.cache_clear()
