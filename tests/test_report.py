"""What a report says, by hand on networks small enough for that."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import skippose
from skippose import ExactNormGate, GumbelGate, InputNormGate, OutputNormGate, Report, Stream
from skippose.report import LayerCost, StateMemory, total

torch.set_num_threads(1)


def tiny(gate, reference: str = "hold") -> nn.Module:
    """Two gated layers, 1x1 and 3x3, then one that is only counted; on 4x4 frames."""
    net = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Flatten(), nn.Linear(96, 5)
    )
    return skippose.convert(net, gate, reference=reference).double().eval()


def changes(batch: int = 1) -> torch.Tensor:
    """Four frames: still, one corner pixel changed, everything changed."""
    x = torch.rand(batch, 1, 2, 4, 4, dtype=torch.float64).repeat(1, 4, 1, 1, 1)
    x[:, 2:, :, 0, 0] += 1
    x[:, 3] += 1
    return x.flatten(0, 1)


MACS = {"0": 2 * 3 * 16, "1": 6 * 9 * 16, "3": 96 * 5}


def report_of(net: nn.Module, x: torch.Tensor, T: int, **arguments) -> Report:
    with skippose.clips(T, **arguments) as run, torch.no_grad():
        net(x)
    return run.report(net)


@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("form", ["clip", "stream"])
def test_densities_and_macs_by_hand(reference, form):
    net = tiny(InputNormGate(0.0, block_mode="fixed"), reference)
    x = changes(2)
    if form == "clip":
        report = report_of(net, x, 4)
    else:
        stream = Stream(net)
        for t in range(4):
            stream(x[t::4])
        report = stream.report()
    assert {cost.name: cost.macs for cost in report.layers} == MACS
    # Frames 2, 3, 4: nothing; one pixel, seen by 1 and by 2 x 2 outputs; everything.
    assert report.densities == pytest.approx({"0": (1 / 16 + 1) / 3, "1": (4 / 16 + 1) / 3})
    assert (report.frames, report.first_frames) == (6, 2)
    dense = sum(MACS.values())
    spent = MACS["0"] * (17 / 16) / 3 + MACS["1"] * (5 / 4) / 3 + MACS["3"]
    assert report.dense_gmacs * 1e9 == pytest.approx(dense)
    assert report.first_gmacs * 1e9 == pytest.approx(dense)
    assert report.gmacs * 1e9 == pytest.approx(spent)
    assert report.reduction == pytest.approx(dense / spent)
    assert report.sparsity == pytest.approx(((1 - 17 / 48) + (1 - 5 / 12)) / 2)
    assert report.gate_gmacs == 0
    # Norms: a difference and an addition per input element, then the window.
    assert report.gadds * 1e9 == 16 * (2 * 2 + 1) + 16 * (2 * 3 + 9)


@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_gates_pay_for_their_convolutions_where_something_changed(reference):
    changed = {"0": (1 / 16 + 1) / 3, "1": (4 / 16 + 1) / 3}

    net = tiny(GumbelGate(init_open=1e3, block_mode="fixed"), reference)
    report = report_of(net, changes(), 4)
    assert report.densities == pytest.approx(changed)
    phi = {"0": 2 * 16, "1": 3 * 9 * 16}  # all input channels to one, groups or not
    assert report.gate_gmacs * 1e9 == pytest.approx(sum(phi[n] * changed[n] for n in phi))
    own = sum(MACS[n] * changed[n] for n in phi) + MACS["3"]
    assert report.gmacs == pytest.approx(own / 1e9 + report.gate_gmacs)

    net = tiny(GumbelGate(init_open=-1e3, block_mode="fixed"), reference)
    report = report_of(net, changes(), 4)
    assert report.densities == {"0": 0.0, "1": 0.0}
    # Nothing was computed in layer 0, so layer 1 saw nothing change.
    assert report.gate_gmacs * 1e9 == pytest.approx(phi["0"] * changed["0"])
    assert report.gmacs * 1e9 == pytest.approx(phi["0"] * changed["0"] + MACS["3"])

    net = tiny(ExactNormGate(0.0, scale="absolute", block_mode="fixed"), reference)
    report = report_of(net, changes(), 4)
    assert report.densities == pytest.approx(changed)
    assert report.gmacs * 1e9 == pytest.approx(2 * own - MACS["3"])


def test_dense_frames_after_the_first_count_and_no_gate_looks_at_them():
    net = tiny(GumbelGate(init_open=-1e3, block_mode="fixed"))
    report = report_of(net, changes(), 4, refresh_every=2)
    assert report.densities == pytest.approx({"0": 1 / 3, "1": 1 / 3})
    phi = 2 * 16 * 1.0 / 3  # frame 4 alone; layer 1 saw no change in it
    assert report.gate_gmacs * 1e9 == pytest.approx(phi)


def test_counts_agree_with_the_flop_counter():
    net = tiny(InputNormGate(0.1))
    x = torch.rand(1, 2, 4, 4, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        net(x)
    stream = Stream(net)
    stream(x)
    assert stream.report().dense_gmacs * 2e9 == counter.get_total_flops()


GATES = {
    "input": InputNormGate,
    "output": OutputNormGate,
    "exact": ExactNormGate,
    "gumbel": GumbelGate,
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("source", ["residual", "frame"])
@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("scale", ["relative", "absolute"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", [1, 4])
def test_a_still_video_costs_nothing(gate, source, reference, scale, training, block):
    if gate == "gumbel":
        template = GumbelGate(source=source, init_open=20.0, block=block)
    else:
        template = GATES[gate](0.0, scale=scale, source=source, block=block, train_gates=True)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2, padding=1)
    )
    net = skippose.convert(net, template, reference=reference).train(training)
    still = torch.randn(2, 1, 2, 10, 10).repeat(1, 5, 1, 1, 1)
    reports = [report_of(net, still.flatten(0, 1), 5)]
    if not training:
        stream = Stream(net)
        for t in range(5):
            stream(still[:, t])
        reports.append(stream.report())
    for report in reports:
        assert report.gmacs == 0
        assert report.gate_gmacs == 0
        assert report.reduction == math.inf
        assert report.sparsity == 1
        assert set(report.densities.values()) == {0.0}
        assert report.first_gmacs == report.dense_gmacs > 0
        assert "inf" in str(report)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("reference", ["hold", "previous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_video_that_stands_still_after_moving_costs_nothing_then(gate, reference, dtype):
    torch.manual_seed(0)
    template = GumbelGate(init_open=0.0) if gate == "gumbel" else GATES[gate](0.2)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2))
    net = skippose.convert(net, template, reference=reference).eval().to(dtype)
    moving = torch.randn(4, 2, 10, 10).cumsum(0).to(dtype)
    stream = Stream(net)
    for frame in moving:
        stream(frame[None])
    before = stream.report()
    for _ in range(4):
        stream(moving[-1:])
    after = stream.report()
    for a, b in zip(before.layers, after.layers, strict=True):
        assert (a.density_sum, a.gate_density_sum) == (b.density_sum, b.gate_density_sum)


def test_clips_of_one_frame_have_no_density():
    net = tiny(InputNormGate(0.1))
    report = report_of(net, changes(), 1)
    assert (report.frames, report.first_frames) == (0, 4)
    for value in (report.gmacs, report.reduction, report.sparsity, *report.densities.values()):
        assert math.isnan(value)
    assert report.dense_gmacs * 1e9 == sum(MACS.values())
    assert "nan" in str(report)
    stream = Stream(net)
    stream(changes()[:1])
    assert math.isnan(stream.report().gmacs)


def test_padding_frames_are_left_out():
    net = tiny(InputNormGate(0.0, block_mode="fixed"))
    report = report_of(net, changes(2), 4, lengths=[3, 1])
    assert (report.frames, report.first_frames) == (2, 2)
    assert report.densities == pytest.approx({"0": (1 / 16) / 2, "1": (4 / 16) / 2})


def test_reports_per_clip_add_up():
    net = tiny(InputNormGate(0.0, block_mode="fixed"))
    x = torch.cat([changes(), changes()[:1].repeat(4, 1, 1, 1)])
    with skippose.clips(4, lengths=[4, 2]) as run, torch.no_grad():
        net(x)
    moving, still = run.clip_reports(net)
    assert moving.densities == pytest.approx({"0": 17 / 48, "1": 5 / 12})
    assert still.densities == {"0": 0.0, "1": 0.0}
    assert (moving.frames, still.frames) == (3, 1)
    whole = run.report(net)
    assert moving + still == whole == total([moving, still])
    # Means over frames, not over clips.
    assert whole.densities == pytest.approx({"0": 17 / 16 / 4, "1": 5 / 4 / 4})


def test_memory_is_that_of_the_last_report_that_knows_it():
    report = report_of(tiny(InputNormGate(0.1)), changes(), 4)
    assert report.memory is None
    assert "state:" not in str(report)
    assert report.to_dict()["state_bytes"] is None
    small, large = (replace(report, memory=StateMemory(n, 2_000_000)) for n in (10**6, 5 * 10**6))
    assert (small + large).memory == (small + large + report).memory == large.memory
    assert (large + small).memory == (Report() + small).memory == small.memory
    assert large.beside(replace(small, memory=None), ", again").memory == large.memory
    last = str(large).splitlines()[-1]
    assert last == "state: 5 MB, 2.50 times the convolutions' inputs and outputs"
    made = large.to_dict()
    assert (made["state_bytes"], made["conv_bytes"]) == (5_000_000, 2_000_000)


def test_an_empty_report_is_neutral():
    report = report_of(tiny(InputNormGate(0.1)), changes(), 4)
    assert Report() + report == report == report + Report()
    assert total([]) == Report()
    assert Report().gmacs == 0
    str(Report())


def test_reports_of_different_networks_do_not_add():
    report = report_of(tiny(InputNormGate(0.1)), changes(), 4)
    other = report_of(tiny(GumbelGate()), changes(), 4)
    with pytest.raises(ValueError, match="3 layers.*3 layers"):
        report + other
    with pytest.raises(ValueError, match="3 layers.*2 layers"):
        report + Report(report.layers[:2], 3, 1)


def test_beside_puts_two_passes_over_the_same_frames_together():
    net = tiny(InputNormGate(0.0, block_mode="fixed"))
    one, two = report_of(net, changes(), 4), report_of(net, changes()[:1].repeat(4, 1, 1, 1), 4)
    both = one.beside(two, "@flip")
    assert both.frames == 3
    assert both.gmacs == pytest.approx(one.gmacs + two.gmacs)
    assert both.dense_gmacs == pytest.approx(2 * one.dense_gmacs)
    assert [cost.name for cost in both.layers] == ["0", "1", "3", "0@flip", "1@flip", "3@flip"]
    with pytest.raises(ValueError, match="3 . 1 .*0 . 4"):
        one.beside(report_of(net, changes(), 1), "@flip")


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def test_to_dict_is_json():
    for T in (4, 1):
        report = report_of(tiny(GumbelGate()), changes(), T)
        again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert [layer["name"] for layer in again["layers"]] == ["0", "1", "3"]
        for key in ("gmacs", "dense_gmacs", "first_gmacs", "gate_gmacs", "reduction", "sparsity"):
            assert again[key] == finite(getattr(report, key))
        assert again["frames"] == report.frames
        for layer, cost in zip(again["layers"], report.layers, strict=True):
            assert layer["macs"] == cost.macs
            assert layer["gated"] == cost.gated
            assert layer["density"] == finite(report.density(cost))


def test_the_table_has_a_line_per_layer_and_a_total():
    layers = (
        LayerCost("stem", 4_000_000, gated=True, density_sum=5.0),
        LayerCost("head.final", 2_000_000, 1_000_000, 0, True, 10.0, 10.0),
        LayerCost("fc", 1_000_000, density_sum=10.0),
    )
    lines = str(Report(layers, 10, 2)).splitlines()
    assert lines[0].split() == ["layer", "MMACs", "density", "share"]
    # Spent: 2 + 3 + 1 MMACs.
    assert lines[1].split() == ["stem", "4.000", "0.5000", "33.33%"]
    assert lines[2].split() == ["head.final", "2.000", "1.0000", "50.00%"]
    assert lines[3].split()[:4] == ["fc", "1.000", "1.0000", "16.67%"]
    assert "always dense" in lines[3]
    assert "10 frames: 0.006 GMACs" in lines[4]
    assert "dense 0.007" in lines[4]
    assert "1.17x" in lines[4]
    assert "2 first frames at 0.007" in lines[4]


def test_a_network_that_is_not_the_one_that_ran():
    net = tiny(InputNormGate(0.1))
    with skippose.clips(4) as run, torch.no_grad():
        net(changes())
    with pytest.raises(ValueError, match="'0'.*not part of the given net"):
        run.report(tiny(InputNormGate(0.1)))
