"""Gumbel gates trained with the network: in parts, in halves of the precision, on two processes."""

import copy
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import skippose
from skippose.engine import BFloat16OptimWrapper
from skippose.gates import GumbelGate
from skippose.models import GateLoss

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE, MAP, JOINTS, FRAMES = 64, 16, 5, 3
REFERENCES = ("hold", "previous")


def fixed_offsets(gate: GumbelGate, like: Tensor) -> Tensor:
    """c and noise that is the same for all clips, however they are dealt out."""
    bias = gate.bias.to(like.dtype)
    if not gate.training:
        return bias.expand(like.shape)
    draw = torch.Generator().manual_seed(like.shape[-1])
    u = torch.rand(len(like), 1, 1, *like.shape[-2:], generator=draw, dtype=like.dtype)
    return bias + (torch.log(u) - torch.log1p(-u)).expand(like.shape)


@pytest.fixture
def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GumbelGate, "offsets", fixed_offsets)


def estimator(
    extra: dict, reference: str, target: float | None = 0.2, **backbone: Any
) -> nn.Module:
    """A small one in float64, batch norm frozen, gates live."""
    torch.manual_seed(0)
    gate = dict(type="GumbelGate", init_open=0.0, block_mode="fixed")
    codec = dict(type="MSRAHeatmap", input_size=(SIZE, SIZE), heatmap_size=(MAP, MAP), sigma=1)
    net = MODELS.build(
        dict(
            type="SkipTopdownPoseEstimator",
            backbone=dict(
                type="SkipHRNet",
                extra=copy.deepcopy(extra),
                gate=gate,
                reference=reference,
                norm_eval=True,
                **backbone,
            ),
            head=dict(
                type="HeatmapHead",
                in_channels=4,
                out_channels=JOINTS,
                deconv_out_channels=None,
                loss=dict(type="KeypointMSELoss", use_target_weight=True),
                decoder=codec,
            ),
            gate_loss=dict(type="GateLoss", weight=0.5, target=target),
            train_cfg=dict(compute_acc=False),
        )
    )
    return net.double().train()


def sample(number: int) -> PoseDataSample:
    draw = torch.Generator().manual_seed(number)
    one = PoseDataSample(metainfo=dict(labelled=True, input_size=(SIZE, SIZE)))
    one.gt_instances = InstanceData(bboxes=np.array([[0, 0, SIZE, SIZE]], float))
    one.gt_instance_labels = InstanceData(
        keypoint_weights=torch.ones(1, JOINTS, dtype=torch.float64)
    )
    one.gt_fields = PixelData(
        heatmaps=torch.rand(JOINTS, MAP, MAP, generator=draw, dtype=torch.float64)
    )
    return one


def batch(make_video: Callable, clips: int) -> tuple[Tensor, list[list[PoseDataSample]]]:
    images = make_video(clips, FRAMES, SIZE, torch.float64)
    return images, [[sample(b * FRAMES + t) for t in range(FRAMES)] for b in range(clips)]


def backward(net: nn.Module, images: Tensor, samples: list, scale: float = 1.0) -> float:
    """Adds to the gradients; returns the share of MACs."""
    losses = net(images, samples, mode="loss")
    total = losses["loss_kpt"] + losses["loss_gate"]
    (scale * total).backward()
    return float(losses["gate_share"])


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert any(".gate.weight" in name and bool(g.abs().sum() > 0) for name, g in a.items())
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize("reference", REFERENCES)
def test_accumulated_gradients_are_those_of_the_whole_batch(
    small_extra: dict, make_video: Callable, fixed_noise: None, reference: str
) -> None:
    """The loss is linear in the share here: a distance to a target is that of each part."""
    net = estimator(small_extra, reference, target=None)
    images, samples = batch(make_video, 2)
    share = backward(net, images, samples)
    assert 0.1 < share < 0.9
    whole = gradients(net)
    net.zero_grad()
    for clip in range(2):
        part = images[clip * FRAMES : (clip + 1) * FRAMES]
        backward(net, part, samples[clip : clip + 1], 0.5)
    assert_same(gradients(net), whole)


@pytest.mark.parametrize("reference", REFERENCES)
def test_activation_checkpointing_changes_no_gradient(
    small_extra: dict, make_video: Callable, reference: str
) -> None:
    """With the gates' own noise, which the recomputation must draw again."""
    found = []
    for with_cp in (False, True):
        net = estimator(small_extra, reference, with_cp=with_cp)
        torch.manual_seed(5)
        backward(net, *batch(make_video, 2))
        found.append(gradients(net))
    assert_same(*found)


@pytest.mark.parametrize("reference", REFERENCES)
def test_bfloat16_trains_the_same_gates(
    small_extra: dict, make_video: Callable, fixed_noise: None, reference: str
) -> None:
    net = estimator(small_extra, reference).float()
    images, samples = batch(make_video, 2)
    for one in samples[0] + samples[1]:
        one.gt_fields.heatmaps = one.gt_fields.heatmaps.float()
        one.gt_instance_labels.keypoint_weights = one.gt_instance_labels.keypoint_weights.float()
    plain = backward(net, images.float(), samples)
    net.zero_grad()
    wrapper = BFloat16OptimWrapper(torch.optim.AdamW(net.parameters(), lr=1e-3))
    with wrapper.optim_context(net):
        losses = net(images.float(), samples, mode="loss")
    assert float(losses["gate_share"]) == pytest.approx(plain, abs=0.03)
    (losses["loss_kpt"] + losses["loss_gate"]).backward()
    for name, grad in gradients(net).items():
        assert grad.dtype == torch.float32 and bool(grad.isfinite().all()), name
    assert all(
        module.weight.grad.abs().sum() > 0
        for module in net.modules()
        if isinstance(module, GumbelGate)
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def worker(
    rank: int, port: int, extra: dict, reference: str, images: Tensor, numbers: list, results: Any
) -> None:
    torch.set_num_threads(1)
    GumbelGate.offsets = fixed_offsets  # type: ignore[method-assign]
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    try:
        with DefaultScope.overwrite_default_scope("mmpose"):
            net = DistributedDataParallel(estimator(extra, reference))
        backward(net, images, [[sample(number) for number in numbers]])
        results[rank] = {name.removeprefix("module."): g for name, g in gradients(net).items()}
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("reference", REFERENCES)
def test_two_processes_are_one(
    small_extra: dict,
    make_video: Callable,
    fixed_noise: None,
    reference: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DDP over gloo, frozen batch norm, fixed noise, a target that only the mean share meets."""
    # The processes import this module by the name that pytest gave it.
    monkeypatch.syspath_prepend(CONFIGS.parent)
    images, samples = batch(make_video, 2)
    net = estimator(small_extra, reference)
    backward(net, images, samples)
    one = gradients(net)
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        port = free_port()
        processes = [
            context.Process(
                target=worker,
                args=(
                    rank,
                    port,
                    small_extra,
                    reference,
                    images[rank * FRAMES : (rank + 1) * FRAMES],
                    list(range(rank * FRAMES, (rank + 1) * FRAMES)),
                    results,
                ),
            )
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        for rank in range(2):
            assert_same(results[rank], one)


@pytest.mark.parametrize("name", ["gumbel", "gumbel-previous", "gumbel-jitter"])
def test_gates_of_the_configs_are_not_decayed_and_learn_at_their_own_rate(name: str) -> None:
    config = Config.fromfile(CONFIGS / "small" / f"skip_hrnet_small_{name}.py")
    net = MODELS.build(config.model)
    wrapper = build_optim_wrapper(net, config.optim_wrapper)
    names = {parameter: name for name, parameter in net.named_parameters()}
    base = config.optim_wrapper.optimizer
    gates = 0
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            if ".gate." in names[parameter]:
                gates += 1
                assert group["weight_decay"] == 0, names[parameter]
                assert group["lr"] > 3 * base.lr, names[parameter]
            else:
                assert group["weight_decay"] == base.weight_decay, names[parameter]
                assert group["lr"] == base.lr, names[parameter]
    assert gates == 2 * sum(isinstance(module, GumbelGate) for module in net.modules()) > 100


@pytest.mark.parametrize("target", [0.2, 0.5])
def test_the_target_is_met_on_unseen_clips(make_video: Callable, target: float) -> None:
    """Within a tenth, by gates that end without noise; and they are neither all open nor closed."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
    )  # fmt: skip
    teacher = copy.deepcopy(net)
    net = skippose.convert(net, GumbelGate(init_open=0.5, block_mode="fixed")).train()
    gates = [module for module in net.modules() if isinstance(module, GumbelGate)]
    optimizer = torch.optim.Adam([p for gate in gates for p in gate.parameters()], lr=0.03)
    loss_of, steps = GateLoss(1.0, target), 160
    for step in range(steps):
        way = step / steps
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - way) + 1e-4
        for gate in gates:
            gate.noise = max(0.0, 1 - way / 0.7)
        images = make_video(2, 5, 32, seed=step)
        with skippose.clips(5) as run:
            found = net(images)
        loss = loss_of(run.gate_loss()) + (found - teacher(images)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    shares = []
    for seed in range(10_000, 10_010):
        with torch.no_grad(), skippose.clips(5) as run:
            net(make_video(2, 5, 32, seed=seed))
        shares.append(float(run.gate_loss()))
    assert np.mean(shares) == pytest.approx(target, rel=0.1)
