"""BFloat16OptimWrapper: half precision in the forward pass, float32 in the weights."""

import pytest

pytest.importorskip("mmpose")

import torch
from mmpose.registry import OPTIM_WRAPPERS
from torch import nn

import skippose  # noqa: F401  (registers the name)


def test_forward_is_bfloat16_and_weights_stay_float32():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 8, 3)
    before = model.weight.detach().clone()
    wrapper = OPTIM_WRAPPERS.get("BFloat16OptimWrapper")(torch.optim.SGD(model.parameters(), 0.1))
    with wrapper.optim_context(model):
        output = model(torch.randn(2, 3, 8, 8))
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().square().mean())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)
    assert model(torch.randn(2, 3, 8, 8)).dtype == torch.float32, "outside the context"


def test_gradients_are_accumulated():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 8, 3)
    wrapper = OPTIM_WRAPPERS.get("BFloat16OptimWrapper")(
        torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=2
    )
    wrapper.initialize_count_status(model, 0, 2)
    weights = [model.weight.detach().clone()]
    for _ in range(2):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1, 3, 8, 8)).float().square().mean()
        wrapper.update_params(loss)
        weights.append(model.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
