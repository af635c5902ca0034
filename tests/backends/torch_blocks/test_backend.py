"""The block backend equals the step form: layer by layer, and free-running."""

import pytest
import torch
from torch import nn

import skippose
from skippose import ExactNormGate, GumbelGate, InputNormGate, OutputNormGate
from skippose.backends.torch_blocks.backend import BlocksBackend
from skippose.backends.torch_blocks.nodes import LocalNode
from skippose.ops.schedule import Schedule

torch.set_num_threads(1)

GATES = {
    "input": lambda b, f=1: InputNormGate(0.3 * f, block=b),
    "rms": lambda b, f=1: InputNormGate(0.4 * f, p=2, block=b),
    "output": lambda b, f=1: OutputNormGate(0.6 * f, block=b),
    "exact": lambda b, f=1: ExactNormGate(0.4 * f, block=b),
    "gumbel": lambda b, f=1: GumbelGate(init_open=-0.1 * f, block=b),
    "rectified": lambda b, f=1: GumbelGate(init_open=-0.1 * f, block=b, rectify=True),
    "frame": lambda b, f=1: GumbelGate(init_open=-0.2 * f, block=b, source="frame"),
}
POLICIES = ["hold", "previous"]
SIZES = [(256, 256), (256, 192), (384, 288), (255, 191)]


def run(follow, net, video, schedule=None, margin=1e-9, tolerance=1e-9):
    """All frames, checked; returns the check and the mean density of the layers."""
    check = follow(net, video[0], schedule or Schedule(), margin, tolerance)
    for frame in video:
        check.step(frame)
    report = check.backend.report()
    densities = list(report.densities.values())
    return check, sum(densities) / len(densities)


@pytest.mark.pairwise
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", GATES)
def test_layer_by_layer_a_small_hrnet(
    gate, reference, slots, follow, make_hrnet, make_moving_video
):
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    torch.manual_seed(0)
    net = skippose.convert(net, GATES[gate](4), reference=reference).double().eval()
    video = make_moving_video(4, slots, (63, 95)).double()
    check, density = run(follow, net, video)
    assert 0.05 < density < 0.8, f"live gates: {density}"
    assert check.masks_near <= 1e-3 * check.masks_seen


@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", ["input", "gumbel"])
def test_layer_by_layer_with_cuts_and_refreshes(
    gate, reference, follow, make_hrnet, make_moving_video
):
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    torch.manual_seed(0)
    net = skippose.convert(net, GATES[gate](4, 0.05), reference=reference).double().eval()
    video = make_moving_video(6, 3, (64, 64)).double()
    video[3:, 1] = -video[3:, 1]  # a cut in one slot
    check, _ = run(follow, net, video, Schedule(refresh_every=4, cut=0.9))
    assert check.backend.age.tolist() == [6, 3, 6]


def test_free_running_it_is_the_step_form(make_hrnet, make_moving_video):
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.3, block=4)).double().eval()
    video = make_moving_video(5, 2, (64, 96)).double()
    streams = [skippose.Stream(net, backend=name) for name in ("torch", "eager")]
    for frame in video:
        torch.testing.assert_close(streams[0](frame), streams[1](frame))
    assert streams[0].report().densities == pytest.approx(streams[1].report().densities)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gate", ["input", "exact", "gumbel"])
def test_a_still_video_costs_nothing(gate, dtype, make_hrnet, make_moving_video):
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, GATES[gate](4)).to(dtype).eval()
    frame = make_moving_video(1, 2, (64, 64))[0].to(dtype)
    stream = skippose.Stream(net, backend="torch")
    first = stream(frame)
    for _ in range(3):
        assert torch.equal(stream(frame), first)
    report = stream.report()
    assert report.gmacs == 0
    assert report.frames == 6


def test_all_open_is_dense(make_hrnet, make_moving_video):
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    gated = skippose.convert(net, InputNormGate(0.0, scale="absolute", block=4)).double().eval()
    stream = skippose.Stream(gated, backend="torch")
    with torch.no_grad():
        for t in range(4):
            frame = torch.randn(1, 3, 64, 64, dtype=torch.float64)
            torch.testing.assert_close(stream(frame), gated(frame), msg=f"frame {t}")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_fixed_masks(share, make_hrnet, make_moving_video):
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.1, block=8)).double().eval()
    video = make_moving_video(4, 1, (256, 256)).double()
    stream = skippose.Stream(net, backend="torch")
    first = stream(video[0])
    cells = torch.zeros(64, dtype=torch.bool)
    cells[: int(64 * share)] = True
    stream.fix_masks(cells.view(8, 8))
    for frame in video[1:]:
        output = stream(frame)
    assert set(stream.report().densities.values()) == {share}
    if share == 0:
        assert torch.equal(output, first)
    if share == 1:
        with torch.no_grad():
            torch.testing.assert_close(output, net(video[-1]))
    stream.fix_masks(None)
    report = stream.report()
    with torch.no_grad():
        torch.testing.assert_close(stream(-video[0]), net(-video[0]))  # dense
    stream(-video[0])  # the gates decide again
    after = stream.report()
    for layer, before in zip(after.layers, report.layers, strict=True):
        assert layer.density_sum - before.density_sum == 1


def test_masks_of_live_gates_imposed_on_another_stream(make_hrnet, make_moving_video):
    net = make_hrnet(8, modules=(1, 1, 1), blocks=1)
    net = skippose.convert(net, InputNormGate(0.3, block=4)).double().eval()
    video = make_moving_video(4, 2, (64, 96)).double()
    live, again = (skippose.Stream(net, backend="torch") for _ in range(2))
    for t, frame in enumerate([*video, video[-1]]):
        output = live(frame)
        if t:
            again.fix_masks(live.masks())
        torch.testing.assert_close(again(frame), output)
    assert 0 < live.report().sparsity < 1
    assert again.report().densities == pytest.approx(live.report().densities)
    assert not any(bool(mask.opened.any()) for mask in live.masks().values()), "a still frame"


class Siblings(nn.Module):
    """Two layers that read one map in the same windows, and one that reads it in others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.left, self.right = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.other = nn.Conv2d(4, 4, 3, padding=2, dilation=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.left(x) + self.right(x) * 2 + self.other(x)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("p", [1, 2, "inf"])
@pytest.mark.parametrize("reference", POLICIES)
def test_slow_changes_open_when_they_have_added_up(reference, p, normalize, follow, make_lively):
    """Bounds on changes since a block was computed grow over many frames before they decide."""
    eps = 2.0 if p != "inf" and not normalize else 0.2
    gate = InputNormGate(eps, p=p, block=2, normalize=normalize)
    torch.manual_seed(0)
    net = skippose.convert(make_lively(Siblings()), gate, reference=reference).double().eval()
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(2, 3, 96, 96, dtype=torch.float64, generator=generator)
    check = follow(net, scene, Schedule(), 1e-9, 1e-9)
    ramp = torch.linspace(0, 1, 96, dtype=torch.float64)  # faster to the right
    opened = []
    for t in range(24):
        noise = torch.randn(scene.shape, dtype=torch.float64, generator=generator)
        if t == 10:
            check.backend.forget([1])
        check.step(scene + 0.03 * t * ramp + 0.01 * noise)
        opened.append(check.backend.report().densities["left"])
    assert check.masks_near <= 1e-3 * check.masks_seen
    if reference == "hold":
        assert 0 < opened[-1] < 0.9


def test_siblings_share_a_gate_where_they_decide_alike(make_lively):
    frame = torch.randn(1, 3, 64, 64)

    def gates(**overrides):
        net = skippose.convert(make_lively(Siblings()), InputNormGate(0.2), overrides=overrides)
        backend = BlocksBackend(net.eval(), frame, Schedule())
        return {conv.op.key.name: conv.gate for conv in backend.convs}

    alike = gates()
    assert alike["left"] is alike["right"]
    assert alike["left"] is not alike["other"]
    other = gates(right=InputNormGate(0.3))
    assert other["left"] is not other["right"]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("block", [1, 2])
def test_what_a_gate_gathered_is_convolved_in_its_order(
    block, kernel, stride, follow, make_lively, make_moving_video
):
    """Patches of 2x2 windows side by side hold as many numbers as their columns, in rows."""
    conv = nn.Conv2d(3, 4, kernel, stride, padding=kernel // 2)
    gate = InputNormGate(0.2, block=block, block_mode="fixed")
    net = skippose.convert(make_lively(nn.Sequential(conv)), gate).double().eval()
    check, density = run(follow, net, make_moving_video(4, 1, (32, 32)).double())
    assert 0 < density < 0.85, "gathered, and not the whole map"
    assert check.masks_near == 0


@pytest.mark.parametrize("kernel", [(7, 1), (1, 7)], ids=str)
def test_kernels_of_one_row_or_column(kernel, follow, make_lively, make_moving_video):
    conv = nn.Conv2d(3, 4, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    gate = InputNormGate(0.2, block_mode="fixed")
    net = skippose.convert(make_lively(nn.Sequential(conv)), gate).double().eval()
    _, density = run(follow, net, make_moving_video(3, 1, (16, 16)).double())
    assert 0 < density < 1


def test_after_a_frame_that_failed_the_next_is_dense_here_and_elsewhere(monkeypatch, make_lively):
    net = skippose.convert(make_lively(Siblings()), InputNormGate(1e6)).eval()
    frames = torch.randn(3, 1, 3, 32, 32)
    stream = skippose.Stream(net, backend="torch")
    stream(frames[0])

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(LocalNode, "run", fail)  # after the layers
        with pytest.raises(KeyboardInterrupt):
            stream(frames[1])
    other = skippose.Stream(net, backend="torch")
    other.load_state_dict(stream.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(frames[2]), net(frames[2]))
        with pytest.warns(UserWarning, match="a frame failed.*dense in all slots"):
            torch.testing.assert_close(stream(frames[2]), net(frames[2]))


# -- HRNet on real video --------------------------------------------------------------------------


FIRST = {"input": 0.25, "rms": 0.5, "exact": 0.25, "rectified": 0.5}
"""Factors of thresholds to begin with, 1 for the others."""


def check_hrnet(width, size, gate, reference, slots, follow, make_hrnet, make_real_video):
    """Four frames, thresholds chosen so that a share of 0.1 to 0.6 is open."""
    video, dense, first = make_real_video(4, slots, size), make_hrnet(width), FIRST.get(gate, 1)
    for factor in (first, 2 * first, first / 2, 4 * first, first / 4):
        torch.manual_seed(0)
        net = skippose.convert(dense, GATES[gate](4, factor), reference=reference).eval()
        # Tolerance: float32 sums of up to 2304 products in another order.
        check, density = run(follow, net, video, margin=1e-5, tolerance=5e-5)
        assert check.masks_near <= 0.01 * check.masks_seen
        if 0.1 <= density <= 0.6:
            return
    pytest.fail(f"no factor gives live gates; the last one {density}")


@pytest.mark.slow
@pytest.mark.parametrize("width", [18, 32])
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_hrnet_on_video_at_all_sizes(
    size, reference, slots, width, follow, make_hrnet, make_real_video
):
    check_hrnet(width, size, "input", reference, slots, follow, make_hrnet, make_real_video)


@pytest.mark.slow
@pytest.mark.parametrize("width", [18, 32])
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("reference", POLICIES)
@pytest.mark.parametrize("gate", [g for g in GATES if g != "input"])
def test_hrnet_on_video_with_all_gates(
    gate, reference, slots, width, follow, make_hrnet, make_real_video
):
    size = (255, 191)
    check_hrnet(width, size, gate, reference, slots, follow, make_hrnet, make_real_video)
