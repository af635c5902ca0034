"""Gated passes over clips: shapes, calls, chunks, cuts, the gate loss and checkpointing."""

import copy
import threading

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import skippose
from skippose import ExactNormGate, GumbelGate, InputNormGate, OutputNormGate, Stream
from skippose.context import checkpoint
from skippose.layers import active, active_pass

torch.set_num_threads(1)


def small_net(gate, reference: str = "hold", **overrides) -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 2, 1, bias=False),
    )
    return skippose.convert(net, gate, reference=reference, **overrides).double().eval()


def video(frames: int, batch: int = 1, size: int = 12, seed: int = 0) -> torch.Tensor:
    """(B·T, 3, size, size): a still background with a patch that moves and flickers."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    x = rand(batch, 1, 3, size, size).repeat(1, frames, 1, 1, 1)
    for t in range(frames):
        at = t % (size - 4)
        x[:, t, :, at : at + 4, at : at + 3] += rand(batch, 3, 4, 3)
        x[:, t] += 0.02 * rand(batch, 3, 1, 1)
    return x.flatten(0, 1)


GATES = {
    "input": InputNormGate(0.15),
    "output": OutputNormGate(0.3, block=2, block_mode="fixed"),
    "exact": ExactNormGate(0.5),
    "gumbel": GumbelGate(init_open=-0.01, block_mode="fixed"),
    "rectified": GumbelGate(init_open=-1.0, rectify=True, threshold=0.2, block_mode="fixed"),
    "frame": InputNormGate(1.1, source="frame", block_mode="fixed"),
}
POLICIES = ["hold", "previous"]


def run_clips(net: nn.Module, frames: torch.Tensor, T: int, **arguments):
    with skippose.clips(T, **arguments) as run, torch.no_grad():
        return net(frames), run


# -- the batch ------------------------------------------------------------------------------------


def test_a_batch_that_does_not_divide_names_layer_batch_and_length():
    net = small_net(GATES["input"])
    with pytest.raises(ValueError, match=r"'0'.*batch of 7 .*clips of 3"):
        run_clips(net, video(7), 3)
    with pytest.raises(ValueError, match=r"batch of 0 "):
        run_clips(net, video(1)[:0], 3)
    assert active_pass() is None


@pytest.mark.parametrize("T", [0, -1, 2.0, None, "8"])
def test_a_clip_has_at_least_one_frame(T):
    with pytest.raises(ValueError, match="at least one frame") as caught, skippose.clips(T):
        pass
    assert repr(T) in str(caught.value)


@pytest.mark.parametrize("lengths", [[0, 2], [2, 5], [-1]])
def test_lengths_outside_the_clip(lengths):
    with pytest.raises(ValueError, match=r"lengths.*1 and T=4.*\["), skippose.clips(4, lengths):
        pass


def test_a_wrong_number_of_lengths():
    with pytest.raises(ValueError, match="3 lengths.*2 clips of 4"):
        run_clips(small_net(GATES["input"]), video(8), 4, lengths=[4, 4, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(cut=-0.1), r"cut.*-0\.1"),
        (dict(cut=1.5), r"cut.*1\.5"),
        (dict(refresh_every=0), "refresh_every.*0"),
        (dict(refresh_every=2.5), r"refresh_every.*2\.5"),
    ],
)
def test_bad_schedules(arguments, message):
    with pytest.raises(ValueError, match=message), skippose.clips(4, **arguments):
        pass


def test_another_batch_midway():
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)[:4])

    net = skippose.convert(Drops(), InputNormGate(0.1))
    with pytest.raises(ValueError, match=r"'b'.*batch of 4 .*2 x 4"):
        run_clips(net, torch.rand(8, 3, 6, 6), 4)


def test_an_image_without_batch_inside_clips():
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 3, 1)), InputNormGate(0.1))
    with pytest.raises(ValueError, match=r"'0'.*\(N, C, H, W\).*\(3, 6, 6\)"):
        run_clips(net, torch.rand(3, 6, 6), 1)


def test_an_input_smaller_than_the_kernel():
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 3, 5)), InputNormGate(0.1)).eval()
    with pytest.raises(ValueError, match="3x4.*5x5"):
        run_clips(net, torch.rand(2, 3, 3, 4), 2)


def test_clips_of_a_batch_do_not_see_each_other():
    net = small_net(GATES["input"])
    a, b = video(5, seed=1), video(5, seed=2)
    both, run = run_clips(net, torch.cat([a, b]), 5)
    for i, x in enumerate((a, b)):
        alone, run_alone = run_clips(net, x, 5)
        torch.testing.assert_close(both[5 * i : 5 * i + 5], alone, rtol=1e-12, atol=1e-12)
        assert run.clip_reports(net)[i].densities == run_alone.report(net).densities


def test_batch_norm_in_training_takes_its_statistics_over_all_frames():
    net = small_net(InputNormGate(0.1))
    net.train()
    dense = copy.deepcopy(net)
    x = video(4, batch=3)
    expected = dense(x)
    with skippose.clips(4):
        z = net(x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(net[1].running_mean, dense[1].running_mean)
    torch.testing.assert_close(net[1].running_var, dense[1].running_var)
    assert net[1].num_batches_tracked == 1


def test_autocast_clip_form():
    net = small_net(InputNormGate(0.0)).float()
    x = video(4).float()
    for reference in POLICIES:
        again = skippose.convert(net, InputNormGate(0.0), reference=reference)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            dense = again(x)
            with skippose.clips(4):
                z = again(x)
        assert z.dtype == dense.dtype == torch.bfloat16
        torch.testing.assert_close(z, dense, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
@pytest.mark.parametrize("gate", [InputNormGate(0.1), GumbelGate(init_open=0.1)])
def test_chunks_of_a_clip_with_and_without_autocast(gate, order):
    torch.manual_seed(0)
    net = skippose.convert(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), gate).eval()
    frames, state = torch.randn(6, 3, 8, 8), None
    for chunk, enabled in zip(frames.split(3), order, strict=True):
        with (
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16, enabled=enabled),
            skippose.clips(3, state=state, keep_state=True) as run,
        ):
            z = net(chunk)
        state = run.state
        assert z.dtype == (torch.bfloat16 if enabled else torch.float32)


@pytest.mark.parametrize("reference", POLICIES)
def test_autocast_does_not_change_the_first_layers_masks(reference):
    net = small_net(GATES["input"], reference).float()
    masks = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            _, run = run_clips(net, video(6).float(), 6, keep_masks=True)
        masks.append(next(iter(run.records.values())).gate)
    assert 0 < masks[0][:, 1:].float().mean() < 1
    assert torch.equal(*masks)


def test_autocast_training_gives_finite_gradients_in_the_parameters_precision():
    net = small_net(GumbelGate(init_open=0.5)).float().train()
    with torch.autocast("cpu", torch.bfloat16), skippose.clips(4) as run:
        loss = net(video(4).float()).float().square().mean() + run.gate_loss()
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


# -- torch.compile --------------------------------------------------------------------------------


def compiled_forms(net: nn.Module) -> dict[str, tuple[nn.Module, bool]]:
    """Networks that compute what ``net`` does, and whether they are compiled dense first."""

    def whole() -> nn.Module:
        return torch.compile(copy.deepcopy(net), backend="eager")

    part, in_place = copy.deepcopy(net), copy.deepcopy(net)
    part[3] = torch.compile(part[3], backend="eager")
    in_place.compile(backend="eager")
    return {
        "whole": (whole(), False),
        "compiled dense": (whole(), True),
        "part": (part, True),
        "in place": (in_place, False),
    }


@pytest.mark.parametrize("form", ["whole", "compiled dense", "part", "in place"])
@pytest.mark.parametrize("reference", POLICIES)
def test_a_compiled_network_is_gated_in_clips_and_dense_outside(form, reference):
    torch._dynamo.reset()
    net = small_net(GATES["input"], reference)
    other, first_dense = compiled_forms(net)[form]
    x = video(6)
    dense = net(x).detach()
    if first_dense:
        with torch.no_grad():
            torch.testing.assert_close(other(x), dense)
    for T in (6, 3, 6, 2):
        expected, run = run_clips(net, x, T)
        found, again = run_clips(other, x, T)
        torch.testing.assert_close(found, expected)
        assert again.report(other) == run.report(net)
        assert 0.02 < run.report(net).sparsity < 0.98
        with torch.no_grad():
            torch.testing.assert_close(other(x), dense)


def test_clips_inside_of_what_is_compiled():
    torch._dynamo.reset()
    net = small_net(GATES["gumbel"]).train()

    def step(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with skippose.clips(6) as run:
            z = net(x)
        return z.square().mean() + run.gate_loss()

    grads = []
    for function in (step, torch.compile(step, backend="eager")):
        again = copy.deepcopy(net)
        torch.manual_seed(3)
        function(again, video(6)).backward()
        grads.append([parameter.grad for parameter in again.parameters()])
    for plain, compiled in zip(*grads, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_what_compiles_first_of_all_inside_clips_is_gated_too(monkeypatch):
    """The pass began when nothing of the process had been compiled yet."""
    torch._dynamo.reset()
    monkeypatch.setattr(active, "outside_compiler", active._call_before_compiling)
    net = small_net(GATES["input"])
    expected, _ = run_clips(net, video(4), 4)
    monkeypatch.setattr(active, "outside_compiler", active._call_before_compiling)
    found, run = run_clips(torch.compile(net, backend="eager"), video(4), 4)
    torch.testing.assert_close(found, expected)
    assert len(run.records) == 3


# -- nesting and threads --------------------------------------------------------------------------


def test_nested_clips_are_independent():
    net = small_net(GATES["input"])
    x, y = video(6, seed=1), video(4, seed=2)
    expected, alone = run_clips(net, x, 6)[0], run_clips(net, y, 2)[0]
    with skippose.clips(6) as outer, torch.no_grad():
        half = net[:3](x)
        with skippose.clips(2) as inner:
            torch.testing.assert_close(net(y), alone)
            assert active_pass() is inner
        assert active_pass() is outer
        torch.testing.assert_close(net[3:](half), expected)
    assert len(outer.records) == len(inner.records) == 3


def test_a_stream_inside_clips_is_independent():
    net = small_net(GATES["input"])
    x = video(4)
    expected, _ = run_clips(net, x, 4)
    with skippose.clips(4) as run, torch.no_grad():
        stream = Stream(net)
        steps = torch.cat([stream(frame[None]) for frame in x])
        assert not run.records
        assert torch.equal(net(x), expected)
    torch.testing.assert_close(steps, expected)


def test_an_error_inside_ends_the_pass():
    with pytest.raises(KeyError), skippose.clips(3):
        raise KeyError("stop")
    assert active_pass() is None


def test_other_threads_see_the_dense_network():
    net = small_net(InputNormGate(1e9))
    x = video(4)
    dense = net(x).detach()
    seen = {}

    def work() -> None:
        seen["pass"] = active_pass()
        with torch.no_grad():
            seen["dense"] = net(x)

    with skippose.clips(4), torch.no_grad():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        held = net(x)
    assert seen["pass"] is None
    assert torch.equal(seen["dense"], dense)
    assert not torch.allclose(held, dense), "this thread's network holds its first frame"


def test_threads_with_clips_of_their_own():
    net = small_net(GATES["input"])
    videos = {T: video(2 * T, seed=T) for T in (2, 3, 4, 6)}
    expected = {T: run_clips(net, x, T)[0] for T, x in videos.items()}
    found: dict[int, list[bool]] = {T: [] for T in videos}
    barrier = threading.Barrier(len(videos))

    def work(T: int) -> None:
        for _ in range(5):
            barrier.wait()
            found[T].append(torch.equal(run_clips(net, videos[T], T)[0], expected[T]))

    threads = [threading.Thread(target=work, args=(T,)) for T in videos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {T: [True] * 5 for T in videos}


# -- calls ----------------------------------------------------------------------------------------


class Pyramid(nn.Module):
    """One head over several levels, as in detectors."""

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 3, padding=1)
        self.levels = levels

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.head(x[..., :: 2**i, :: 2**i]) for i in range(self.levels)]


@pytest.mark.parametrize("reference", POLICIES)
def test_each_call_of_a_layer_has_a_state_of_its_own(reference):
    net = skippose.convert(Pyramid(), InputNormGate(0.1), reference=reference).double().eval()
    x = video(6)
    levels, run = run_clips(net, x, 6)
    for i, z in enumerate(levels):
        single = net.head
        alone, alone_run = run_clips(single, x[..., :: 2**i, :: 2**i], 6)
        if i == 0:  # elsewhere blocks differ: they are cells of the first input
            torch.testing.assert_close(z, alone)
            name = next(iter(alone_run.report(single).densities))
            assert run.report(net).densities["head"] == alone_run.report(single).densities[name]
    stream = Stream(net)
    steps = [stream(frame[None]) for frame in x]
    for i, z in enumerate(levels):
        torch.testing.assert_close(torch.cat([step[i] for step in steps]), z)
    assert list(run.report(net).densities) == ["head", "head#1", "head#2"]
    assert stream.report().densities == pytest.approx(run.report(net).densities)


def test_more_calls_than_in_the_chunk_before():
    net = skippose.convert(Pyramid(2), InputNormGate(0.1)).double().eval()
    _, run = run_clips(net, video(4), 4, keep_state=True)
    net.levels = 3
    with pytest.raises(RuntimeError, match="'head'.*call 3.*fewer"):
        run_clips(net, video(4), 4, state=run.state)


def test_fewer_calls_than_in_the_chunk_before():
    net = skippose.convert(Pyramid(3), InputNormGate(0.1)).double().eval()
    _, run = run_clips(net, video(4), 4, keep_state=True)
    net.levels = 2
    with pytest.raises(RuntimeError, match="head|calls"):
        _, run = run_clips(net, video(4), 4, state=run.state, keep_state=True)
        run.state  # noqa: B018 - at the latest when the state is asked for


# -- chunks, cuts, refreshes ----------------------------------------------------------------------

SCHEDULES = [{}, dict(refresh_every=3), dict(cut=0.35), dict(cut=0.35, refresh_every=3)]


def cut_video(batch: int = 2) -> torch.Tensor:
    """Eleven frames with cuts at different times in the clips of a batch."""
    x = video(11, batch).unflatten(0, (batch, 11))
    for b in range(batch):
        x[b, 4 + b :] = x[b, 4 + b :].flip(-1) + 1.0
        x[b, 9:] = x[b, 9:].flip(-2) - 1.5
    return x.flatten(0, 1)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_chunks_with_state_and_streams_are_the_whole_clip(name, reference, schedule):
    net = small_net(GATES[name], reference)
    x = cut_video()
    whole, run = run_clips(net, x, 11, **schedule)
    report = run.report(net)
    frames = x.unflatten(0, (2, 11))
    assert 0 < report.densities["0"] < 1, "live gates"
    if schedule.keys() == {"cut"}:
        assert run.dense[:, 1:].any(1).all(), "each clip has a cut"

    state, outputs, total = None, [], skippose.Report()
    for start, stop in ((0, 1), (1, 5), (5, 6), (6, 11)):
        z, part = run_clips(
            net,
            frames[:, start:stop].flatten(0, 1),
            stop - start,
            state=state,
            keep_state=True,
            **schedule,
        )
        state, total = part.state, total + part.report(net)
        outputs.append(z.unflatten(0, (2, -1)))
    torch.testing.assert_close(torch.cat(outputs, 1).flatten(0, 1), whole)
    assert total.densities == pytest.approx(report.densities)
    assert total.gmacs == pytest.approx(report.gmacs)
    assert (total.frames, total.first_frames) == (report.frames, report.first_frames) == (20, 2)

    stream = Stream(net, **schedule)
    steps = torch.stack([stream(frames[:, t]) for t in range(11)], 1).flatten(0, 1)
    torch.testing.assert_close(steps, whole)
    assert stream.report().densities == pytest.approx(report.densities)
    assert stream.report().gmacs == pytest.approx(report.gmacs)
    assert (stream.report().frames, stream.report().first_frames) == (20, 2)


def dense_frames(net: nn.Module, x: torch.Tensor, T: int, **schedule) -> list[list[int]]:
    """Per clip, the frames in which every output of every layer was computed."""
    _, run = run_clips(net, x, T, **schedule)
    density = torch.stack([record.density for record in run.records.values()])
    return [(density[:, b] == 1).all(0).nonzero().flatten().tolist() for b in range(run.batch)]


@pytest.mark.parametrize("reference", POLICIES)
def test_refresh_every_counts_from_the_slots_begin(reference):
    net = small_net(InputNormGate(1e6), reference)
    assert dense_frames(net, video(8), 8) == [[0]]
    assert dense_frames(net, video(8), 8, refresh_every=3) == [[0, 3, 6]]
    assert dense_frames(net, video(4), 4, refresh_every=1) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("reference", POLICIES)
def test_a_cut_begins_the_slot_anew(reference):
    net = small_net(InputNormGate(0.3), reference)
    x = video(1).repeat(9, 1, 1, 1)
    x[4:] = x[4:].flip(-1) + 1.0
    x = torch.cat([x, video(1).repeat(9, 1, 1, 1)])  # a second clip without a cut
    assert dense_frames(net, x, 9, cut=0.5) == [[0, 4], [0]]
    assert dense_frames(net, x, 9, cut=0.5, refresh_every=3) == [[0, 3, 4, 7], [0, 3, 6]]
    # After the cut the outputs are those of a clip that begins there.
    z, _ = run_clips(net, x, 9, cut=0.5)
    fresh, _ = run_clips(net, x[4:9], 5)
    torch.testing.assert_close(z[4:9], fresh)


def test_a_cut_is_decided_by_the_first_gated_layer():
    # The stem has no gate; the next layer sees the change, and only strictly more than θ cuts.
    net = small_net(InputNormGate(0.0, block_mode="fixed"), overrides={"0": None})
    x = video(1).repeat(2, 1, 1, 1)
    x[1, :, 0, 0] += 1.0
    _, run = run_clips(net, x, 2)
    density = run.report(net).densities["3"]
    assert 0 < density < 0.5
    assert dense_frames_of_first_gate(net, x, cut=density) == [True, False]
    assert dense_frames_of_first_gate(net, x, cut=density - 1e-3) == [True, True]


def dense_frames_of_first_gate(net: nn.Module, x: torch.Tensor, cut: float) -> list[bool]:
    _, run = run_clips(net, x, len(x), cut=cut)
    return run.dense[0].tolist()


def test_a_cut_sets_the_scale_of_relative_thresholds():
    net = skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 1)), InputNormGate(0.5)).double().eval()
    levels = torch.tensor([1.0, 100.0, 130.0, 200.0], dtype=torch.float64)
    x = levels.reshape(4, 1, 1, 1).expand(4, 1, 4, 4)
    # Uncut, 130 is 30 away from frame 2 and opens a threshold of half of 1.
    densities = [r.density.squeeze(0).tolist() for r in run_clips(net, x, 4)[1].records.values()]
    assert densities == [[1, 1, 1, 1]]
    # Cut at frame 2, the threshold is half of 100: 130 is held, 200 opens and is a cut again.
    _, run = run_clips(net, x, 4, cut=0.9)
    densities = [r.density.squeeze(0).tolist() for r in run.records.values()]
    assert densities == [[1, 1, 0, 1]]
    assert run.dense.tolist() == [[True, True, False, True]]


def test_the_state_of_another_batch():
    net = small_net(GATES["input"])
    _, run = run_clips(net, video(4, batch=2), 4, keep_state=True)
    with pytest.raises(ValueError, match="2 clips.*batch has 1"):
        run_clips(net, video(4), 4, state=run.state)


def test_state_is_kept_on_request_only():
    net = small_net(GATES["input"])
    _, run = run_clips(net, video(4), 4)
    with pytest.raises(ValueError, match="keep_state=True"):
        run.state  # noqa: B018 - the property raises
    with skippose.clips(4, keep_state=True) as run:
        with pytest.raises(ValueError, match="run the net"):
            run.state  # noqa: B018
        net(video(4))


def test_a_pass_does_not_change_the_state_that_it_was_given():
    net = small_net(GATES["input"], "previous")
    _, run = run_clips(net, video(4), 4, keep_state=True)
    state = run.state
    before = copy.deepcopy([vars(layer) for layer in state.layers.values()])
    again = [run_clips(net, video(4, seed=s), 4, state=state)[0] for s in (5, 5)]
    assert torch.equal(*again)
    for kept, layer in zip(before, state.layers.values(), strict=True):
        for key, value in kept.items():
            same = value is None or torch.equal(value, getattr(layer, key))
            assert same, key


# -- the gate loss --------------------------------------------------------------------------------


def test_gate_loss_by_hand():
    """1/(T-1) Σ_t Σ_l m_l E[g] / Σ_l m_l, without first and padding frames."""
    net = small_net(GATES["output"])
    x = video(5, batch=3)
    _, run = run_clips(net, x, 5, lengths=[5, 3, 1], keep_masks=True)
    macs = {"0": 3 * 4 * 9 * 144, "3": 4 * 6 * 9 * 36, "5": 6 * 2 * 36}
    expected, frames = 0.0, 0
    for b, length in enumerate([5, 3, 1]):
        for t in range(1, length):
            spent = 0.0
            for call, record in run.records.items():
                name = next(n for n, m in net.named_modules() if m is call.layer)
                mask = record.gate[b, t, 0].repeat_interleave(record.block[0], 0)
                mask = mask.repeat_interleave(record.block[1], 1)
                mask = mask[: record.out_size[0], : record.out_size[1]]
                spent += macs[name] * mask.double().mean().item()
            expected += spent / sum(macs.values())
            frames += 1
    assert frames == 4 + 2
    assert 0 < expected / frames < 1
    assert run.gate_loss().item() == pytest.approx(expected / frames)
    report = run.report(net)
    assert run.gate_loss().item() == pytest.approx(report.gmacs / report.dense_gmacs)


def test_gate_loss_counts_every_call_and_only_gated_layers():
    net = skippose.convert(Pyramid(2), InputNormGate(0.1)).double().eval()
    _, run = run_clips(net, video(4), 4)
    report = run.report(net)
    assert run.gate_loss().item() == pytest.approx(report.gmacs / report.dense_gmacs)

    net = small_net(GATES["input"], overrides={"0": None})
    _, run = run_clips(net, video(4), 4)
    gated = [layer for layer in run.report(net).layers if layer.gated]
    share = sum(x.macs * x.density_sum / 3 for x in gated) / sum(x.macs for x in gated)
    assert run.gate_loss().item() == pytest.approx(share)


def test_gate_loss_without_gates_is_an_error():
    """It is the share of gated layers, and a network that was to have some would train without."""
    _, run = run_clips(small_net(None), video(4), 4)
    with pytest.raises(RuntimeError, match=r"no gated layer ran.*skippose\.convert, or leave"):
        run.gate_loss()


def test_gate_loss_without_second_frames_is_zero():
    _, run = run_clips(small_net(GATES["input"]), video(4), 1)
    assert run.gate_loss().item() == 0
    _, run = run_clips(small_net(GATES["input"]), video(4), 2, lengths=[1, 1])
    assert run.gate_loss().item() == 0


def test_gate_loss_of_open_norm_gates_in_training_is_one():
    net = small_net(InputNormGate(0.3)).train()
    with skippose.clips(4) as run:
        net(video(4))
    assert run.gate_loss().item() == 1


def test_gradient_of_the_gate_loss_ignores_padding_frames():
    grads = []
    for padding in (0.0, 5.0):
        torch.manual_seed(3)
        net = small_net(GumbelGate(init_open=0.2)).train()
        net[1].eval()  # batch statistics would mix frames
        x = video(5)
        x[3:] += padding * torch.rand(2, 3, 12, 12, dtype=torch.float64)
        torch.manual_seed(4)
        with skippose.clips(5, lengths=[3]) as run:
            net(x)
        run.gate_loss().backward()
        grads.append([m.gate.weight.grad for m in net if hasattr(m, "gate")])
    assert grads[0][0].abs().sum() > 0
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


# -- activation checkpointing ---------------------------------------------------------------------


class Checkpointed(nn.Module):
    """A network that recomputes its blocks in the backward pass."""

    def __init__(self, net: nn.Sequential, how) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([net[:3], net[3:]])
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = self.how(block, x)
        return x


TRAINED = {
    "open": InputNormGate(0.1),
    "norm": InputNormGate(0.1, train_gates=True),
    "output": OutputNormGate(0.3, train_gates=True),
    "exact": ExactNormGate(0.1, train_gates=True),
    "gumbel": GumbelGate(init_open=0.3, block_mode="fixed"),
}


def train_once(name: str, reference: str, how, backward_inside: bool, **schedule):
    """Loss, gradients, report and outputs of one step."""
    net = small_net(TRAINED[name], reference).train()
    net[1].eval()
    net[2] = nn.ReLU()
    model = Checkpointed(net, how)
    x = cut_video()
    x.requires_grad_()
    torch.manual_seed(7)
    with skippose.clips(11, **schedule) as run:
        z = model(x)
        loss = z.square().mean() + 0.5 * run.gate_loss()
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters()} | {"x": x.grad}
    return z.detach(), loss.item(), grads, run.report(model)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("schedule", [{}, dict(cut=0.6, refresh_every=4)], ids=str)
def test_checkpointing_changes_nothing(name, reference, inside, schedule):
    plain = train_once(name, reference, lambda f, x: f(x), inside, **schedule)
    again = train_once(name, reference, checkpoint, inside, **schedule)
    torch.testing.assert_close(again[0], plain[0])
    assert again[1] == pytest.approx(plain[1])
    assert plain[2].keys() == again[2].keys()
    for key, grad in plain[2].items():
        torch.testing.assert_close(again[2][key], grad, msg=lambda m, key=key: f"{key}: {m}")
    assert again[3] == plain[3]


def test_nested_checkpoints_change_nothing():
    def nested(block: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda y: checkpoint(block[1:], checkpoint(block[:1], y)), x)

    plain = train_once("gumbel", "hold", lambda f, x: f(x), False)
    again = train_once("gumbel", "hold", nested, False)
    for key, grad in plain[2].items():
        torch.testing.assert_close(again[2][key], grad)
    assert again[3] == plain[3]


def test_checkpointing_of_a_layer_that_is_called_several_times():
    grads, reports = [], []
    for how in (lambda f, x: f(x), checkpoint):
        torch.manual_seed(0)
        shared = skippose.convert(nn.Conv2d(3, 3, 3, padding=1), TRAINED["norm"]).double().train()
        x = video(6)
        with skippose.clips(6) as run:
            for _ in range(3):
                x = how(shared, x)
        x.square().sum().backward()
        grads.append(shared.weight.grad)
        reports.append(run.report(shared))
    torch.testing.assert_close(*grads)
    assert reports[0] == reports[1]
    assert len(reports[0].layers) == 3


def test_checkpoint_outside_clips_is_the_ordinary_one():
    net = small_net(GATES["gumbel"]).train()
    grads = []
    for how in (lambda f, x: f(x), checkpoint):
        again = copy.deepcopy(net)
        again[2] = nn.ReLU()
        how(again, video(4)).square().sum().backward()
        grads.append(again[0].weight.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["open", "norm", "gumbel"])
def test_a_checkpoint_that_does_not_know_about_clips_raises(reentrant, inside, training, name):
    """It would recompute another network, and give wrong gradients without a word."""

    def ordinary(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)

    net = small_net(TRAINED[name]).train(training)
    net[2] = nn.ReLU()
    model = Checkpointed(net, ordinary)
    x = cut_video().requires_grad_()
    with pytest.raises(RuntimeError, match="checkpoint"):
        with skippose.clips(11):
            loss = model(x).square().mean()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()


def test_dense_layers_within_an_ordinary_checkpoint_are_counted_once():
    """Nothing is wrong with that one: a part of the network without gated layers."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    )
    net = skippose.convert(net, InputNormGate(0.1), filter_fn=lambda m, name: name == "0").train()
    with skippose.clips(4) as run:
        z = torch.utils.checkpoint.checkpoint(
            net[1], net[0](torch.rand(4, 3, 6, 6)), use_reentrant=False
        )
        z.square().sum().backward()
    assert [cost.name for cost in run.report(net).layers] == ["0", "1.0", "1.2"]


def test_dense_training_with_checkpoints_works_after_training_in_clips():
    net = small_net(TRAINED["open"]).train()
    with skippose.clips(4):
        net(video(4)).sum().backward()
    for reentrant in (False, True):
        x = video(4).requires_grad_()
        torch.utils.checkpoint.checkpoint(net, x, use_reentrant=reentrant).sum().backward()
        assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_an_ordinary_checkpoint_around_dropout_alone_is_right_or_raises(reentrant, inside):
    """Outside of the clip dropout would draw per frame: other masks than those of the forward."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Softplus(), nn.Dropout(0.5)))
    net = skippose.convert(net, InputNormGate(0.1)).train()
    h: torch.Tensor

    def backward() -> bool:
        try:
            z.sum().backward()
        except RuntimeError as error:
            assert "checkpoint" in str(error)
            return False
        return True

    with skippose.clips(4):
        h = net[0](torch.rand(4, 3, 4, 4))
        h.retain_grad()
        z = torch.utils.checkpoint.checkpoint(net[1], h, use_reentrant=reentrant)
        done = backward() if inside else None
    if done is None:
        done = backward()
    assert not done or torch.equal(h.grad != 0, z != 0)


@pytest.mark.parametrize("name", ["norm", "exact", "gumbel"])
@pytest.mark.parametrize("reference", POLICIES)
def test_gradients_pass_from_chunk_to_chunk(name, reference):
    results = []
    for chunks in ([11], [3, 1, 7]):
        net = small_net(TRAINED[name], reference).train()
        net[1].eval()
        net[2] = nn.ReLU()
        for layer in (net[0], net[3], net[5]):
            layer.gate.train(name != "gumbel")  # samples would differ
        x = cut_video(1).requires_grad_()
        state, outputs, start = None, [], 0
        for length in chunks:
            with skippose.clips(length, state=state, keep_state=True) as run:
                outputs.append(net(x[start : start + length]))
            state, start = run.state, start + length
        torch.cat(outputs).square().sum().backward()
        results.append([x.grad, net[0].weight.grad, net[3].bias.grad, net[5].weight.grad])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole)
