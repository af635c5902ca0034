"""Convolutions that are factored into thinner ones."""

import copy

import pytest
import torch
from mmpose.registry import MODELS
from torch import nn

import skippose
from skippose.layers import SkipConv2d
from skippose.models.pose_estimators.low_rank import LowRankConv2d, factored

from .conftest import architecture

GATE = dict(type="InputNormGate", eps=0.3)
HEAD = dict(
    type="HeatmapHead",
    in_channels=16,
    out_channels=5,
    deconv_out_channels=None,
    loss=dict(type="KeypointMSELoss", use_target_weight=True),
    decoder=dict(type="MSRAHeatmap", input_size=(64, 64), heatmap_size=(16, 16), sigma=1),
)


def estimator(share: float | None, gate: dict | None = GATE) -> nn.Module:
    backbone = dict(type="SkipHRNet", extra=architecture(16, 1), gate=gate)
    config = dict(type="SkipTopdownPoseEstimator", backbone=backbone, head=HEAD)
    if share is not None:
        config |= dict(type="LowRankTopdownPoseEstimator", share=share)
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy(config)).double().eval()


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (3, 8, 5, 1)])
def test_full_rank_is_exact_and_fewer_are_the_best_of_their_rank(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    matrix = weight.flatten(1)
    for rank in range(1, min(matrix.shape) + 1):
        first, second = factored(weight, rank)
        assert first.shape == (rank, *shape[1:]) and second.shape == (shape[0], rank, 1, 1)
        error = matrix - second.flatten(1) @ first.flatten(1)
        # Eckart and Young: what is left are the singular values that were cut off.
        rest = torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()
        torch.testing.assert_close(error.norm(), rest)


@pytest.mark.parametrize(
    "options", [dict(stride=2, padding=1), dict(padding=2, dilation=2), dict(bias=False)]
)
def test_it_takes_the_weights_of_the_single_convolution(options):
    conv = nn.Conv2d(4, 6, 3, **options).double()
    low = LowRankConv2d(conv, rank=6).double()
    assert low.load_state_dict(conv.state_dict()).missing_keys == []
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(low(x), conv(x))


def test_gates_are_those_of_the_single_convolution():
    conv = SkipConv2d(4, 6, 3, gate=skippose.InputNormGate(eps=0.25, block=2), reference="previous")
    parts = list(LowRankConv2d(conv, rank=2))
    assert all(isinstance(part, SkipConv2d) for part in parts)
    assert [part.gate.settings() for part in parts] == 2 * [conv.gate.settings()]
    assert [part.reference for part in parts] == ["previous"] * 2
    assert parts[0].gate is not parts[1].gate


def test_an_estimator_takes_dense_checkpoints_and_costs_less():
    dense, low = estimator(None), estimator(0.5)
    found = low.load_state_dict(dense.state_dict(), strict=False)
    assert not [key for key in found.missing_keys if ".gate." not in key]
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    costs = []
    for net in (dense, low):
        with torch.no_grad(), skippose.clips(4) as run:
            net._forward(images)
        costs.append(run.report(net).dense_gmacs)
    assert 0.4 * costs[0] < costs[1] < 0.7 * costs[0]
    replaced = [m for m in low.modules() if isinstance(m, LowRankConv2d)]
    assert len(replaced) > 20
    for module in replaced:
        assert module[0].in_channels >= 16 and module[1].out_channels >= 16


def test_the_more_of_its_macs_the_nearer_to_dense():
    dense = estimator(None, gate=None)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    errors = []
    with torch.no_grad():
        for share in (0.3, 0.9):
            low = estimator(share, gate=None)
            low.load_state_dict(dense.state_dict(), strict=False)
            errors.append((low._forward(images) - dense._forward(images)).norm())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_bad_shares(share):
    with pytest.raises(ValueError, match=f"at most 1, got {share}"):
        estimator(share)
