"""SkipHRNet against mmpose's HRNet, and its forms against each other."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpose.models.backbones import HRNet
from mmpose.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

import skippose
from skippose.frames_pass import FramesPass
from skippose.layers import SkipConv2d, gated_pass
from skippose.models import SkipHRNet
from skippose.ops import skip_conv_clip, skip_conv_loop, skip_conv_step
from skippose.ops.contract import GatedConvolution, SkipResult
from skippose.ops.schedule import Schedule

ROOT = Path(__file__).parents[2]
REFERENCES = ("hold", "previous")
OPEN = (
    dict(type="InputNormGate", eps=0.0),
    dict(type="InputNormGate", eps=0.0, block=4),
    dict(type="OutputNormGate", eps=0.0),
    dict(type="ExactNormGate", eps=0.0),
    dict(type="GumbelGate", init_open=1e6),
)
SHUT = (
    dict(type="InputNormGate", eps=1e6),
    dict(type="OutputNormGate", eps=1e6),
    dict(type="ExactNormGate", eps=1e6),
    dict(type="GumbelGate", init_open=-1e6),
)


def gate_id(gate: object) -> str:
    if not isinstance(gate, dict):
        return str(gate)
    return gate["type"] + (f"-block{gate['block']}" if "block" in gate else "")


def skip_layers(net: nn.Module) -> dict[str, SkipConv2d]:
    return {name: m for name, m in net.named_modules() if isinstance(m, SkipConv2d)}


class Outputs:
    """What every convolution of a network gave in its last call."""

    def __init__(self, net: nn.Module) -> None:
        self.by_name: dict[str, Tensor] = {}
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(self._note(name))

    def _note(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            # In-place activations follow.
            self.by_name[name] = output.detach().clone()

        return hook


class LoopPass(FramesPass):
    """A pass in which the plain loop of the formula takes the place of every layer's operation."""

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        self._enter(layer, x)
        operation = layer.gated(self.frame_size, x.shape[-2], x.shape[-1])
        images = x.unflatten(0, (self.batch, self.frames))
        z, gates = skip_conv_loop(images, operation, self.dense)
        result = SkipResult(z, gates, None, self.dense, None)
        self._note(self._next_call(layer), self._record(layer, operation, result))
        return z.flatten(0, 1)


def estimator(**backbone: object) -> nn.Module:
    """The estimator of the headline config, head included."""
    model = Config.fromfile(ROOT / "configs/_base_/models/skip_hrnet_w32.py").model
    for key, value in backbone.items():
        model.backbone[key] = value  # update() would merge two gates
    torch.manual_seed(0)
    return MODELS.build(model)


@pytest.fixture(scope="module")
def w32() -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmpose"):
        return estimator().eval()


# -- what is gated, and what loads ---------------------------------------------------------------


def test_every_convolution_of_w32_and_its_head_has_a_gate(w32: nn.Module) -> None:
    convolutions = [m for m in w32.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 293
    assert all(isinstance(m, SkipConv2d) and m.gate is not None for m in convolutions)
    assert len(skip_layers(w32.backbone)) == 292
    gates = [m.gate for m in convolutions]
    assert len({id(gate) for gate in gates}) == 293, "every layer needs a gate of its own"
    assert w32.head.final_layer.gate.settings() == w32.backbone.conv1.gate.settings()
    assert w32.head.final_layer.reference == "hold"


def test_w32_macs_are_those_that_torch_counts(w32: nn.Module) -> None:
    frame = torch.randn(1, 3, 256, 256)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        w32(frame)
    # All frames dense: the frames that densities are means over cost what a dense one costs.
    with torch.no_grad(), skippose.clips(2, refresh_every=1) as run:
        w32(frame.repeat(2, 1, 1, 1))
    report = run.report(w32)
    assert report.dense_gmacs * 2e9 == counter.get_total_flops()
    assert report.gmacs * 2e9 == pytest.approx(counter.get_total_flops(), rel=1e-12)
    assert round(report.dense_gmacs, 2) == 10.19
    assert report.reduction == pytest.approx(1)
    assert len(report.layers) == 293


@pytest.mark.parametrize(
    "gate", [None, OPEN[0], OPEN[4]], ids=["none", "InputNormGate", "GumbelGate"]
)
def test_a_dense_checkpoint_loads(small_extra: dict, gate: dict | None) -> None:
    dense = HRNet(small_extra)
    net = SkipHRNet(small_extra, gate=gate)
    result = net.load_state_dict(dense.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(".gate." in key for key in result.missing_keys)
    if gate is None:
        assert result.missing_keys == []
    own = [key for key in net.state_dict() if ".gate." not in key]
    assert own == list(dense.state_dict())


def test_it_can_be_built_without_a_default_scope(
    small_extra: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As HRNet can: in a notebook nobody has called ``init_default_scope``."""
    monkeypatch.setattr(DefaultScope, "_instance_dict", OrderedDict())
    assert DefaultScope.get_current_instance() is None
    HRNet(small_extra)
    assert type(SkipHRNet(small_extra, gate=OPEN[0]).conv1) is SkipConv2d


# -- dense ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gate", [OPEN[0], OPEN[4]], ids=gate_id)
def test_outside_clips_it_is_hrnet(
    small_extra: dict, gate: dict, training: bool, make_video: Callable[..., Tensor]
) -> None:
    dense = HRNet(small_extra)
    net = SkipHRNet(small_extra, gate=gate)
    net.load_state_dict(dense.state_dict(), strict=False)
    dense.train(training)
    net.train(training)
    images = make_video(2, 2)
    for ours, theirs in zip(net(images), dense(images), strict=True):
        assert torch.equal(ours, theirs)


def compare_layers_with_dense(
    net: nn.Module, images: Tensor, frames: int, tolerance: float
) -> skippose.Report:
    """Every convolution in a clip against the same one outside, given in full each time."""
    seen = Outputs(net)
    with torch.no_grad():
        net(images)
        dense = dict(seen.by_name)
        with skippose.clips(frames) as run:
            net(images)
    for name, expected in dense.items():
        error = (seen.by_name[name] - expected).abs().max() / expected.abs().max()
        assert error <= tolerance, f"{name}: {error:.2e}"
    return run.report(net)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("gate", OPEN, ids=gate_id)
def test_all_open_is_dense(
    small_extra: dict,
    gate: dict,
    reference: str,
    make_video: Callable[..., Tensor],
    settle: Callable[..., nn.Module],
) -> None:
    images = make_video(2, 4, dtype=torch.float64)
    torch.manual_seed(1)
    net = settle(SkipHRNet(small_extra, gate=gate, reference=reference).double(), images)
    report = compare_layers_with_dense(net, images, 4, 1e-11)
    assert min(report.densities.values()) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("gate", [OPEN[0], OPEN[4]], ids=gate_id)
def test_all_open_is_dense_in_all_293_of_w32(
    gate: dict, reference: str, make_video: Callable[..., Tensor], settle: Callable[..., nn.Module]
) -> None:
    images = make_video(1, 3, dtype=torch.float64)
    net = settle(estimator(gate=gate, reference=reference).double(), images)
    report = compare_layers_with_dense(net, images, 3, 1e-11)
    assert len(report.densities) == 293
    assert min(report.densities.values()) == 1.0


# -- closed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("gate", SHUT, ids=gate_id)
def test_all_closed_holds_the_first_frame(
    small_extra: dict,
    gate: dict,
    reference: str,
    make_video: Callable[..., Tensor],
    settle: Callable[..., nn.Module],
) -> None:
    frames = 4
    images = make_video(2, frames)
    net = settle(SkipHRNet(small_extra, gate=gate, reference=reference), images)
    seen = Outputs(net)
    with torch.no_grad():
        alone = [y.clone() for y in net(images[::frames])]
        with skippose.clips(frames) as run:
            outputs = net(images)
    assert set(run.report(net).densities.values()) == {0.0}
    for name, z in [*seen.by_name.items(), *((str(i), y) for i, y in enumerate(outputs))]:
        clips = z.unflatten(0, (2, frames))
        assert torch.equal(clips, clips[:, :1].expand_as(clips)), name
    for held, first in zip(outputs, alone, strict=True):
        torch.testing.assert_close(held[::frames], first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gate", OPEN, ids=gate_id)
def test_a_still_video_costs_nothing(
    small_extra: dict,
    gate: dict,
    reference: str,
    training: bool,
    make_video: Callable[..., Tensor],
    settle: Callable[..., nn.Module],
) -> None:
    if gate["type"] != "GumbelGate":
        gate = dict(gate, train_gates=True)
    net = settle(SkipHRNet(small_extra, gate=gate, reference=reference), make_video(2, 3))
    images = make_video(2, 3, still=True)
    net.train(training)
    with torch.no_grad(), skippose.clips(3) as run:
        net(images)
    report = run.report(net)
    assert (report.frames, report.first_frames) == (4, 2)
    assert report.gmacs == 0.0
    assert report.gate_gmacs == 0.0
    assert report.sparsity == 1.0
    if not training:
        stream = skippose.Stream(net)
        for frame in images[:3]:
            stream(frame[None])
        assert stream.report().gmacs == 0.0


# -- live gates on W32 ---------------------------------------------------------------------------

LIVE = [
    pytest.param(dict(type="InputNormGate", eps=0.45), "hold", id="hold-norm"),
    pytest.param(dict(type="InputNormGate", eps=0.55, block=4), "hold", id="hold-norm-blocks"),
    pytest.param(dict(type="InputNormGate", eps=0.45), "previous", id="previous-norm"),
    pytest.param(dict(type="GumbelGate", init_open=0.0), "hold", id="hold-gumbel"),
    pytest.param(dict(type="GumbelGate", init_open=0.0), "previous", id="previous-gumbel"),
]


def assert_live(report: skippose.Report) -> None:
    densities = list(report.densities.values())
    assert len(densities) == 293
    assert 0.2 <= 1 - report.sparsity <= 0.5
    assert sum(0.02 < d < 0.98 for d in densities) > 0.6 * len(densities)


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "reference"), LIVE)
def test_live_w32_loop_is_clip_is_step(
    gate: dict, reference: str, make_video: Callable[..., Tensor], settle: Callable[..., nn.Module]
) -> None:
    """Free-running in float64: a mask that differed anywhere would spread through the network."""
    frames = 4
    images = make_video(2, frames, dtype=torch.float64)
    net = settle(estimator(gate=gate, reference=reference).double(), images)
    with torch.no_grad():
        with skippose.clips(frames, keep_masks=True) as clip:
            in_clips = net(images)
        loop = LoopPass(frames, Schedule(), keep_masks=True)
        with gated_pass(loop):
            looped = net(images)
    stream = skippose.Stream(net)
    steps = [stream(frame) for frame in images.unflatten(0, (2, frames)).unbind(1)]

    assert_live(clip.report(net))
    largest = in_clips.abs().max().item()
    torch.testing.assert_close(in_clips, looped, rtol=0, atol=1e-9 * largest)
    torch.testing.assert_close(
        torch.stack(steps, 1).flatten(0, 1), looped, rtol=0, atol=1e-9 * largest
    )
    assert clip.records.keys() == loop.records.keys()
    for call, record in clip.records.items():
        assert torch.equal(record.gate, loop.records[call].gate), call.layer.name
    assert stream.report().densities == pytest.approx(clip.report(net).densities, abs=1e-7)


class ScoreKeeper:
    """A gate that remembers how far its scores were from opening, and by how much they vary."""

    def __init__(self, gate: nn.Module) -> None:
        self.gate = gate
        self.distances: list[Tensor] = []
        self.magnitude = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self.gate, name)

    def decide(self, score: Tensor, scale: Tensor | None) -> Tensor:
        if isinstance(self.gate, skippose.GumbelGate):
            threshold = -self.gate.bias
        else:
            threshold = self.gate.eps * scale[:, None, None, None]
        self.distances.append((score - threshold).abs())
        self.magnitude = max(self.magnitude, float(score.abs().mean()))
        return self.gate.decide(score, scale)


class LayerByLayerPass(FramesPass):
    """Runs the clip form, and tests every layer's clip and step form on that layer's own inputs.

    The truth is the loop in float64. Masks may differ only where a score lies within `MARGIN` of
    the threshold (in units of the layer's mean score); from there on that block is left out, for
    it refers to another frame. Outputs of all other blocks must agree.
    """

    MARGIN = 1e-4
    TOLERANCE = 1e-4

    def __init__(self, frames: int) -> None:
        super().__init__(frames, Schedule(), keep_masks=True)
        self.blocks = self.excused = 0

    def skip_conv(self, layer: SkipConv2d, x: Tensor) -> Tensor:
        self._enter(layer, x)
        operation = layer.gated(self.frame_size, x.shape[-2], x.shape[-1])
        images = x.unflatten(0, (self.batch, self.frames))
        result = skip_conv_clip(images, operation, None, self.dense, False)
        self._note(self._next_call(layer), self._record(layer, operation, result))

        exact = copy.deepcopy(layer).double()
        twin = exact.gated(self.frame_size, x.shape[-2], x.shape[-1])
        keeper = ScoreKeeper(twin.gate)
        twin = GatedConvolution(twin.conv, keeper, twin.reference, twin.block)
        z, gates = skip_conv_loop(images.double(), twin, self.dense)
        distance = torch.stack([torch.zeros_like(keeper.distances[0]), *keeper.distances], 1)
        self.compare(layer, operation, result.z, result.gate, z, gates, distance, keeper)

        state, zs, masks = None, [], []
        for t in range(self.frames):
            step = skip_conv_step(images[:, t], operation, state, self.dense[:, t])
            state = step.state
            zs.append(step.z)
            masks.append(step.gate)
        stepped = torch.stack(zs, 1), torch.stack(masks, 1)
        self.compare(layer, operation, *stepped, z, gates, distance, keeper)
        return result.z.flatten(0, 1)

    def compare(
        self,
        layer: SkipConv2d,
        operation: GatedConvolution,
        z: Tensor,
        mask: Tensor,
        true_z: Tensor,
        true_mask: Tensor,
        distance: Tensor,
        keeper: ScoreKeeper,
    ) -> None:
        differs = (mask > 0.5) != (true_mask > 0.5)
        near = distance <= self.MARGIN * keeper.magnitude
        # Only a block's first difference needs an excuse; what follows refers to another frame.
        later = (differs.cumsum(1) - differs.long()) > 0
        assert not (differs & ~near & ~later).any(), f"{layer.name}: a mask differs far from eps"
        excused = differs.cumsum(1) > 0
        self.blocks += excused.numel()
        self.excused += int(excused.sum())
        agreed = ~operation.expand(excused, z.shape[-2:])
        error = ((z - true_z).abs() * agreed).max() / true_z.abs().max()
        assert error <= self.TOLERANCE, f"{layer.name}: {error:.2e}"


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "reference"), LIVE)
def test_live_w32_layer_by_layer_in_float32(
    gate: dict, reference: str, make_video: Callable[..., Tensor], settle: Callable[..., nn.Module]
) -> None:
    images = make_video(1, 4)
    net = settle(estimator(gate=gate, reference=reference), images)
    run = LayerByLayerPass(4)
    with torch.no_grad(), gated_pass(run):
        net(images)
    assert_live(run.report(net))
    assert run.blocks > 10**4
    assert run.excused <= 1e-3 * run.blocks


# -- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", [{}, dict(init_cfg=dict(type="Kaiming", layer="Conv2d"))])
def test_init_weights_leaves_gates_as_they_are(small_extra: dict, init: dict) -> None:
    net = SkipHRNet(small_extra, gate=dict(type="GumbelGate", init_open=2.5), **init)
    gates = {k: v.clone() for k, v in net.state_dict().items() if ".gate." in k}
    before = net.conv1.weight.detach().clone()
    net.init_weights()
    assert not torch.equal(net.conv1.weight, before)
    after = net.state_dict()
    assert gates, "a Gumbel gate has parameters"
    for key, value in gates.items():
        assert torch.equal(after[key], value), key
    biases = [v for k, v in after.items() if k.endswith("gate.bias")]
    assert all(float(v) == 2.5 for v in biases)


def test_train_and_eval_return_the_network(small_extra: dict) -> None:
    net = SkipHRNet(small_extra, gate=OPEN[0])
    assert net.train() is net
    assert net.training
    assert net.conv1.gate.training
    assert net.eval() is net
    assert not net.training
    assert not net.conv1.gate.training


def training_step(
    net: nn.Module, images: Tensor, frames: int
) -> tuple[Tensor, dict[str, Tensor], skippose.Report]:
    torch.manual_seed(3)
    net.zero_grad()
    with skippose.clips(frames) as run:
        outputs = net(images)
    # Weights that differ from place to place, so that no gradient cancels behind a batch norm.
    loss = sum((y * torch.linspace(-1, 1, y.numel()).view_as(y).to(y)).sum() for y in outputs)
    loss = loss + run.gate_loss() if run.gate_loss().requires_grad else loss
    report = run.report(net)
    loss.backward()
    assert run.report(net) == report, "the recomputation must not count"
    gradients = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, report


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(
    "gate",
    [
        dict(type="InputNormGate", eps=0.4, train_gates=True),
        dict(type="ExactNormGate", eps=0.4, train_gates=True),
        dict(type="GumbelGate", init_open=0.0),
    ],
    ids=gate_id,
)
def test_checkpointing_changes_nothing(
    small_extra: dict, gate: dict, reference: str, make_video: Callable[..., Tensor]
) -> None:
    images = make_video(2, 3, dtype=torch.float64)
    torch.manual_seed(2)
    plain = SkipHRNet(small_extra, gate=gate, reference=reference).double().train()
    saving = SkipHRNet(small_extra, gate=gate, reference=reference, with_cp=True).double().train()
    saving.load_state_dict(plain.state_dict())
    loss, gradients, report = training_step(plain, images, 3)
    loss_cp, gradients_cp, report_cp = training_step(saving, images, 3)
    assert 0.02 < 1 - report.sparsity < 0.98
    assert report_cp == report
    torch.testing.assert_close(loss_cp, loss, rtol=1e-12, atol=0)
    assert gradients_cp.keys() == gradients.keys()
    if gate["type"] == "GumbelGate":
        assert sum(".gate." in key for key in gradients) == 2 * len(skip_layers(plain))
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradients_cp[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(
    "gate",
    [
        dict(type="InputNormGate", eps=0.4, train_gates=True),
        dict(type="ExactNormGate", eps=0.4, train_gates=True),
        dict(type="GumbelGate", init_open=0.0),
    ],
    ids=gate_id,
)
def test_a_training_step_under_autocast(
    small_extra: dict, gate: dict, reference: str, make_video: Callable[..., Tensor]
) -> None:
    torch.manual_seed(2)
    net = SkipHRNet(small_extra, gate=gate, reference=reference).train()
    images = make_video(2, 3)
    loss, gradients, report = training_step(net, images, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss_16, gradients_16, report_16 = training_step(net, images, 3)
    assert gradients_16.keys() == gradients.keys()
    assert all(bool(torch.isfinite(g).all()) for g in gradients_16.values())
    assert all(g.dtype == torch.float32 for g in gradients_16.values())
    assert torch.isfinite(loss_16)
    # Masks differ where rounding takes a score over the threshold.
    assert abs(report_16.sparsity - report.sparsity) < 0.1


def test_norm_gates_stay_open_in_training_unless_they_take_part(
    small_extra: dict, make_video: Callable[..., Tensor]
) -> None:
    net = SkipHRNet(small_extra, gate=dict(type="InputNormGate", eps=1e6)).train()
    dense = HRNet(small_extra)
    dense.load_state_dict(net.state_dict(), strict=False)
    images = make_video(2, 3)
    with skippose.clips(3) as run:
        outputs = net(images)
    assert set(run.report(net).densities.values()) == {1.0}
    dense.train()  # mmpose's returns None
    for ours, theirs in zip(outputs, dense(images), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_stages_train_nothing_and_skip_nothing_more(
    small_extra: dict, frozen: int, make_video: Callable[..., Tensor]
) -> None:
    net = SkipHRNet(
        small_extra, gate=dict(type="InputNormGate", eps=1e6), frozen_stages=frozen
    ).train()
    dense = HRNet(small_extra, frozen_stages=frozen)
    dense.train()  # mmpose's returns None
    dense.load_state_dict(net.state_dict(), strict=False)
    ours = {k for k, p in net.named_parameters() if not p.requires_grad}
    assert ours == {k for k, p in dense.named_parameters() if not p.requires_grad}
    assert {k for k, m in net.named_modules() if isinstance(m, _BatchNorm) and not m.training} == {
        k for k, m in dense.named_modules() if isinstance(m, _BatchNorm) and not m.training
    }
    images = make_video(2, 3)
    with skippose.clips(3) as run:
        outputs = net(images)
    # train_gates=False: all gates are open while training, those of frozen stages as well.
    assert set(run.report(net).densities.values()) == {1.0}
    for a, b in zip(outputs, dense(images), strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_gumbel_gates_do_not_learn(
    small_extra: dict, make_video: Callable[..., Tensor]
) -> None:
    gate = dict(type="GumbelGate", init_open=0.0)
    net = SkipHRNet(small_extra, gate=gate, frozen_stages=1).train()
    training_step(net, make_video(2, 3), 3)
    for name, layer in skip_layers(net).items():
        learns = layer.gate.weight.grad is not None
        is_frozen = name in ("conv1", "conv2") or name.startswith(("layer1", "transition1"))
        assert learns != is_frozen, name


def test_norm_eval_keeps_batch_norms_in_evaluation(small_extra: dict) -> None:
    net = SkipHRNet(small_extra, gate=OPEN[0], norm_eval=True).train()
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert not any(m.training for m in norms)
    assert net.conv1.training


# -- configuration -------------------------------------------------------------------------------


def test_overrides(small_extra: dict, make_video: Callable[..., Tensor]) -> None:
    net = SkipHRNet(
        small_extra,
        gate=dict(type="InputNormGate", eps=0.1),
        reference="previous",
        overrides={"conv1": dict(type="GumbelGate"), "stage4.*": None, "conv[12]": None},
    )
    for name, layer in skip_layers(net).items():
        if name == "conv1":  # an exact name wins over patterns
            assert isinstance(layer.gate, skippose.GumbelGate)
        elif name == "conv2" or name.startswith("stage4."):
            assert layer.gate is None, name
        else:
            assert isinstance(layer.gate, skippose.InputNormGate), name
            assert layer.gate.eps == 0.1
        assert layer.reference == "previous", name
    with torch.no_grad(), skippose.clips(2) as run:
        net.eval()(make_video(1, 2))
    report = run.report(net)
    assert len(report.layers) == len(skip_layers(net)), "dense layers are counted too"
    dense = {layer.name for layer in report.layers if not layer.gated}
    assert dense == {n for n, m in skip_layers(net).items() if m.gate is None}


def test_an_override_that_names_no_layer_is_an_error(small_extra: dict) -> None:
    with pytest.raises(ValueError, match=r"stage7\.\*"):
        SkipHRNet(small_extra, gate=OPEN[0], overrides={"stage7.*": None})


def test_conv_cfg_is_refused(small_extra: dict) -> None:
    with pytest.raises(ValueError, match="conv_cfg"):
        SkipHRNet(small_extra, gate=OPEN[0], conv_cfg=dict(type="Conv2d"))


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        (dict(gate=dict(type="NoSuchGate")), KeyError, "NoSuchGate"),
        (dict(gate=dict(type="InputNormGate", eps=-1)), ValueError, "-1"),
        (dict(gate=dict(type="InputNormGate", eps=0.1, block=0)), ValueError, "block"),
        (dict(gate=OPEN[0], reference="newest"), ValueError, "newest"),
    ],
)
def test_bad_gates_are_refused(
    small_extra: dict, keywords: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SkipHRNet(small_extra, **keywords)
