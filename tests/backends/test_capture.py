"""From networks to plans: what is captured equals the network; what is not is named."""

import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skippose
from skippose import ExactNormGate, InputNormGate
from skippose.backends.native.backend import NativeBackend
from skippose.plan.capture import CaptureError, capture
from skippose.plan.operators.concat import Concat
from skippose.plan.operators.conv import Conv
from skippose.plan.operators.conv_transpose import ConvTranspose
from skippose.plan.operators.linear import Linear
from skippose.plan.operators.pointwise import Pointwise
from skippose.plan.operators.resize import Upsample
from skippose.plan.operators.sum import FuseSum

torch.set_num_threads(1)


def run_dense(plan, frame: Tensor):
    """The plan's operations one after the other, as if there were no gates."""
    values = {0: frame}
    for op in plan.ops:
        values[op.output] = op.apply([values[v] for v in op.inputs], plan.values[op.output])
    outputs = [plan.values[v].as_output(values[v]) for v in plan.outputs]
    return torch.utils._pytree.tree_unflatten(outputs, plan.tree)


def check(net: nn.Module, size=(64, 48), gate=None, tolerance=1e-9):
    """Captures; the plan on two frames must give what the network gives."""
    transposed = {n: None for n, m in net.named_modules() if isinstance(m, nn.ConvTranspose2d)}
    gate = gate or InputNormGate(0.1, block=4)
    net = skippose.convert(net, gate, overrides=transposed).double().eval()
    frame = torch.randn(2, 3, *size, dtype=torch.float64)
    plan = capture(net, frame)
    with torch.no_grad():
        torch.testing.assert_close(
            run_dense(plan, frame), net(frame), rtol=tolerance, atol=tolerance
        )
    levels = {}
    for op in plan.ops:
        assert all(levels.get(v, 0) < op.level for v in op.inputs), "inputs of lower levels"
        levels[op.output] = op.level
    return plan


# -- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (63, 95)], ids=str)
@pytest.mark.parametrize("width", [18, 32, 48])
def test_hrnet(width, size, make_hrnet):
    plan = check(make_hrnet(width, modules=(1, 1, 1), blocks=1), size)
    assert not [op for op in plan.ops if isinstance(op, Pointwise)], "all folded or fused"
    sums = [op for op in plan.ops if isinstance(op, FuseSum)]
    assert all(str(op.activation) == "relu" for op in sums)
    if size == (64, 64):
        assert not [op for op in plan.ops if isinstance(op, Upsample)]


@pytest.mark.slow
@pytest.mark.parametrize("width", [18, 32, 48])
def test_a_whole_hrnet(width, make_hrnet):
    net = make_hrnet(width)
    plan = check(net, (128, 96))
    count = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert len(plan.gated) == sum(isinstance(op, Conv) for op in plan.ops) == count
    assert len(list(plan.levels())) < len(plan.ops) / 2, "branches run side by side"


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small"])
def test_torchvision(name, make_lively):
    models = pytest.importorskip("torchvision.models", reason="torchvision has the network")
    plan = check(make_lively(getattr(models, name)(weights=None)), (64, 64), tolerance=1e-8)
    assert any(isinstance(op, Linear) for op in plan.ops)
    assert not [op for op in plan.ops if isinstance(op, Pointwise) and op.affine is not None]


class Pieces(nn.Module):
    """Everything else that plans have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2)
        self.up_bn = nn.BatchNorm2d(6)
        self.gate = nn.Conv2d(6, 6, 1)
        self.out = nn.Conv2d(18, 4, 1)
        self.linear = nn.Linear(4 * 12, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.leaky_relu(self.bn(self.stem(x)), 0.2)
        x = F.max_pool2d(x, 3, 2, 1)
        u = F.relu6(self.up_bn(self.up(x)))
        u = u * torch.sigmoid(self.gate(u.mean((2, 3), keepdim=True)))
        small = F.avg_pool2d(u, 2)
        sizes = dict(size=u.shape[2:], mode="bilinear", align_corners=False)
        both = torch.cat([u, F.interpolate(small, **sizes), F.interpolate(small, u.shape[2:])], 1)
        y = self.out(F.hardswish(both)) / 2 - 1
        return {"maps": y, "features": self.linear(F.avg_pool2d(y, 4).flatten(1))}


def test_everything_else_that_plans_have(make_lively):
    plan = check(make_lively(Pieces()), (12, 16))
    assert {ConvTranspose, Concat, Linear} <= {type(op) for op in plan.ops}


def test_a_convolution_over_several_levels_has_several_keys():
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.head(x), self.head(F.avg_pool2d(x, 2))]

    plan = check(Pyramid())
    assert [str(op.key) for op in plan.gated] == ["head#0", "head#1"]
    assert [cost.name for cost in plan.costs] == ["head", "head#1"]


def test_what_is_held_is_folded_but_not_for_gates_that_see_the_response():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    folded, seen = (check(net, (9, 9), gate) for gate in (InputNormGate(0.1), ExactNormGate(0.1)))
    assert folded.gated[0].affine is None
    assert seen.gated[0].affine is not None
    assert torch.equal(seen.gated[0].weight, net[0].weight.double())
    assert len(folded.ops) == len(seen.ops) == 1


def test_costs_are_those_of_the_report(make_hrnet):
    net = skippose.convert(make_hrnet(8, modules=(1, 1, 1), blocks=1), InputNormGate(0.1)).eval()
    frame = torch.randn(1, 3, 64, 64)
    plan = capture(net, frame)
    stream = skippose.Stream(net, backend="eager")
    stream(frame)
    assert [(c.name, c.macs) for c in plan.costs] == [
        (c.name, c.macs) for c in stream.report().layers
    ]


# -- plans are shared, and made anew where that is needed -----------------------------------------


def small() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return skippose.convert(net, InputNormGate(0.1)).eval()


def test_plans_are_shared_between_streams_and_slots():
    net = small()
    assert capture(net, torch.zeros(1, 3, 8, 8)) is capture(net, torch.zeros(4, 3, 8, 8))
    assert capture(net, torch.zeros(1, 3, 8, 9)) is not capture(net, torch.zeros(1, 3, 8, 8))


def test_plans_of_the_last_two_sizes_are_kept():
    net, frames = small(), [torch.zeros(1, 3, 8, width) for width in (8, 9, 10)]
    first, second = (capture(net, frame) for frame in frames[:2])
    assert capture(net, frames[0]) is first
    third = capture(net, frames[2])
    assert capture(net, frames[0]) is first
    assert capture(net, frames[2]) is third
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None


def double(net: nn.Module) -> None:
    net[0].weight.mul_(2)


def shift(net: nn.Module) -> None:
    net[1].running_mean.add_(1)


def write_data(net: nn.Module) -> None:
    net[0].weight.data[0, 0, 0, 0] += 0.1


def set_gate(net: nn.Module) -> None:
    net[0].gate.eps = 0.3


def set_policy(net: nn.Module) -> None:
    net[0].reference = "previous"


def exchange(net: nn.Module) -> None:
    net[2] = nn.SiLU()


def set_slope(net: nn.Module) -> None:
    net[2] = nn.LeakyReLU(0.5)


def pad_around(net: nn.Module) -> None:
    net[0].padding, net[0].padding_mode = (1, 1), "circular"
    net[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]


@pytest.mark.parametrize(
    "change",
    [double, shift, write_data, set_gate, set_policy, exchange, set_slope, pad_around],
)
def test_a_changed_network_has_another_plan(change):
    net, frame = small(), torch.randn(1, 3, 8, 8)
    before = capture(net, frame)
    with torch.no_grad():
        change(net)
        assert capture(net, frame) is not before
        torch.testing.assert_close(run_dense(capture(net, frame), frame), net(frame))
        assert capture(net, frame) is capture(net, frame)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_stream_shows_the_network_as_it_was_at_its_reset(backend):
    if NativeBackend.unavailable() and backend == "native":
        pytest.skip("no native backend")
    net, frame = small(), torch.randn(1, 3, 8, 8)
    stream = skippose.Stream(net, backend=backend)
    before = stream(frame)
    net[0].weight.data.neg_()
    assert torch.equal(stream(frame), before)
    stream.reset()
    with torch.no_grad():
        torch.testing.assert_close(stream(frame), net(frame))


# -- what cannot be captured ----------------------------------------------------------------------


class Body(nn.Module):
    """A convolution and something after it."""

    def __init__(self, after) -> None:
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, 4, 3, padding=1), after

    def forward(self, x: Tensor):
        return self.after(self.conv(x))


UNKNOWN = {
    "softmax": (lambda x: x.softmax(1), "_softmax.*after operation 1"),
    "sorting": (lambda x: x.sort(1).values, "sort"),
    "a branch": (lambda x: x if x.mean() > 0 else -x, "mean"),
    "a number": (lambda x: x * float(x.amax()), "amax"),
    "rows": (lambda x: x[:, :, ::2], "slice"),
    "a product of matrices": (lambda x: x @ x.transpose(2, 3), "transpose"),
    "three dimensions": (lambda x: x.flatten(2), "view.*no flatten"),
    "a difference": (lambda x: x - F.relu(x), "sub.*difference"),
    "group norm": (lambda x: F.group_norm(x, 2), "group_norm"),
    "instance statistics": (lambda x: F.instance_norm(x), "norm"),
    "no function of the frame": (lambda x: [x, torch.zeros(1)], "no function of the frame"),
    "bounds by channel": (lambda x: x.clamp(max=torch.zeros(4, 1, 1)), "clamp.*no numbers"),
    "bounds of the frame": (lambda x: x.clamp(x.mean((2, 3), True)), "clamp.*no numbers"),
    "a larger mean": (lambda x: F.adaptive_avg_pool2d(x, 3), "adaptive.*1x1"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_cannot_be_captured_is_named(what):
    after, message = UNKNOWN[what]
    net = skippose.convert(Body(after), InputNormGate(0.1)).eval()
    frame = torch.randn(1, 3, 8, 8)
    with pytest.raises(CaptureError, match=f"(?s){message}.*cannot be captured$"):
        capture(net, frame)
    with pytest.raises(CaptureError, match="captured; Stream.*backend='eager'.*any network"):
        skippose.Stream(net, backend="torch")(frame)
    eager = skippose.Stream(net, backend="eager")
    torch.testing.assert_close(eager(frame), net(frame))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("after", ["hooks", "autocast"])
def test_circumstances_that_a_plan_would_not_see(after, cached):
    net, frame = small(), torch.randn(1, 3, 8, 8)
    if cached:
        capture(net, frame)
    if after == "hooks":
        net[1].register_forward_hook(lambda *_: None)
        with pytest.raises(CaptureError, match="'1' has forward hooks"):
            capture(net, frame)
    else:
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(CaptureError, match="autocast"):
            capture(net, frame)


def test_auto_falls_back_and_says_so_once(monkeypatch):
    monkeypatch.setattr("skippose.stream._said", set())
    net = skippose.convert(Body(lambda x: x.softmax(1)), InputNormGate(0.1)).eval()
    frame = torch.randn(1, 3, 8, 8)
    stream = skippose.Stream(net)
    with pytest.warns(UserWarning, match=r"Body streams with backend 'eager'.*_softmax") as said:
        stream(frame)
    assert "runs any network" not in str(said[0].message), "it does already"
    assert stream.backend == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream(frame)
        skippose.Stream(net)(frame)


def test_auto_takes_a_captured_backend():
    stream = skippose.Stream(small())
    stream(torch.randn(1, 3, 8, 8))
    assert stream.backend != "eager"


def test_a_network_in_training_mode():
    net = small()
    net[1].train()
    with pytest.raises(CaptureError, match="training mode"):
        capture(net, torch.randn(2, 3, 8, 8))


# -- looking at a plan ----------------------------------------------------------------------------


def test_a_table(make_hrnet):
    net = skippose.convert(make_hrnet(8, modules=(1, 1, 1), blocks=1), InputNormGate(0.1, block=4))
    plan = capture(net.eval(), torch.zeros(1, 3, 64, 64))
    lines = str(plan).splitlines()
    assert len(lines) == len(plan.ops) + 2
    assert lines[0].split() == ["level", "operation", "layer", "from", "to", "MMACs", "block"]
    assert "backbone.conv1#0" in lines[1]
    macs = sum(cost.macs for cost in plan.costs) / 1e9
    assert f"{len(plan.ops)} operations in" in lines[-1]
    assert f"{macs:.4g} GMACs" in lines[-1]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture(suffix, tmp_path, make_hrnet):
    pytest.importorskip("matplotlib", reason="the picture is drawn with it")
    from skippose.visualization.plan_picture import draw_plan

    net = skippose.convert(make_hrnet(8, modules=(1, 1, 1), blocks=1), InputNormGate(0.1, block=4))
    path = tmp_path / f"plan.{suffix}"
    draw_plan(capture(net.eval(), torch.zeros(1, 3, 64, 64)), path)
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(begins)
    assert path.stat().st_size > 5000


def test_levels_of_convolutions_come_after_the_one_that_cuts():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    plan = capture(skippose.convert(Two(), InputNormGate(0.1)).eval(), torch.zeros(1, 3, 8, 8))
    decider = plan.ops[plan.decider]
    assert isinstance(decider, Conv) and decider.key.name == "a"
    assert all(op.level > decider.level for op in plan.gated if op is not decider)
