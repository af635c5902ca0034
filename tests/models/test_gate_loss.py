"""GateLoss, alone and over two processes."""

import socket

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from mmpose.registry import MODELS
from torch import Tensor

import skippose
from skippose.models import GateLoss


def test_it_is_registered() -> None:
    loss = MODELS.build(dict(type="GateLoss", weight=0.25, target=0.5))
    assert type(loss) is GateLoss
    assert (loss.weight, loss.target) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("weight", "target", "share", "expected", "slope"),
    [
        (1e-4, None, 0.5, 0.5e-4, 1e-4),
        (2.0, None, 0.0, 0.0, 2.0),
        (0.0, None, 0.7, 0.0, 0.0),
        (2.0, 0.3, 0.5, 0.4, 2.0),
        (2.0, 0.3, 0.1, 0.4, -2.0),
        (3.0, 0.0, 0.25, 0.75, 3.0),
        (3.0, 1.0, 0.25, 2.25, -3.0),
    ],
)
def test_values_and_gradients(
    weight: float, target: float | None, share: float, expected: float, slope: float
) -> None:
    tensor = torch.tensor(share, dtype=torch.float64, requires_grad=True)
    loss = GateLoss(weight, target)(tensor)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert tensor.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(weight=-1.0), "weight.*-1.0"),
        (dict(weight=float("nan")), "weight.*nan"),
        (dict(weight=float("inf")), "weight.*inf"),
        (dict(weight=1.0, target=1.5), "target.*1.5"),
        (dict(weight=1.0, target=-0.1), "target.*-0.1"),
        (dict(weight=1.0, target=0.1, memory=1.0), "memory.*1.0"),
        (dict(weight=1.0, target=0.1, memory=-0.5), "memory.*-0.5"),
    ],
)
def test_bad_arguments(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GateLoss(**arguments)


def test_with_a_memory_the_mean_over_batches_aims_at_the_target() -> None:
    loss = GateLoss(2.0, 0.3, memory=0.75)
    expected = None
    for share in (0.2, 0.9, 0.1, 0.1):
        tensor = torch.tensor(share, requires_grad=True)
        found = loss(tensor)
        expected = share if expected is None else 0.75 * expected + 0.25 * share
        assert found.item() == pytest.approx(2 * abs(expected - 0.3), abs=1e-6)
        found.backward()
        # The third is below the target itself, and the mean is not.
        assert tensor.grad.item() == pytest.approx(2.0 if expected > 0.3 else -2.0)
    again = GateLoss(2.0, 0.3, memory=0.75)
    again.load_state_dict(loss.state_dict())
    assert again.running == loss.running
    before = loss.eval()(torch.tensor(0.9))
    assert loss(torch.tensor(0.1)).item() == pytest.approx(before.item(), abs=1e-6)
    assert not GateLoss(1.0, 0.3).state_dict()


def test_a_layer_weighs_as_much_as_its_macs() -> None:
    """``1/(T-1) Σ_t Σ_l m_l E[g] / Σ_l m_l``, with a wide layer shut and a narrow one open."""
    torch.manual_seed(0)
    shut = dict(type="InputNormGate", eps=1e6, train_gates=True)
    wide = skippose.SkipConv2d(4, 24, 3, padding=1, gate=shut)
    narrow = skippose.SkipConv2d(4, 2, 1, gate=dict(type="GumbelGate", init_open=1e3))
    images = torch.randn(6, 4, 8, 8)
    with skippose.clips(3) as run:
        narrow(images)
        wide(images)
    cheap, dear = 4 * 2, 4 * 24 * 9
    assert run.gate_loss().item() == pytest.approx(cheap / (cheap + dear))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def worker(rank: int, port: int, shares: list[float], results: list) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(shares)
    )
    try:
        out: dict[str, tuple[float, float]] = {}
        for target in (0.5, None):
            share: Tensor = torch.tensor(shares[rank], dtype=torch.float64, requires_grad=True)
            loss = GateLoss(2.0, target)(share)
            loss.backward()
            out[str(target)] = (loss.item(), share.grad.item())
        results[rank] = out
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_aim_at_the_target_together() -> None:
    """Shares of 0.9 and 0.3 are 0.1 above a target of 0.5 together, and both must fall.

    Apart, the second would be pushed up.
    """
    shares = [0.9, 0.3]
    with torch.multiprocessing.Manager() as manager:
        results = manager.list([None, None])
        torch.multiprocessing.spawn(worker, (free_port(), shares, results), nprocs=2)
        together = list(results)
    for rank in range(2):
        loss, slope = together[rank]["0.5"]
        assert loss == pytest.approx(2.0 * 0.1)
        assert slope == pytest.approx(2.0)
        # Without a target the loss is linear: DDP's mean of gradients is that of the mean.
        loss, slope = together[rank]["None"]
        assert loss == pytest.approx(2.0 * shares[rank])
        assert slope == pytest.approx(2.0)
