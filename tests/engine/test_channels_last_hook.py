"""ChannelsLastHook: another memory format, the same parameters and results."""

from types import SimpleNamespace

import pytest

pytest.importorskip("mmpose")

import torch
from mmpose.registry import HOOKS
from torch import nn

import skippose


def test_the_format_changes_and_the_parameters_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model = skippose.convert(model, gate=skippose.InputNormGate(eps=0.5)).eval()
    frames = torch.randn(4, 3, 12, 10)
    parameters = list(model.parameters())
    with torch.no_grad(), skippose.clips(2):
        expected = model(frames)
        HOOKS.build(dict(type="ChannelsLastHook")).before_run(SimpleNamespace(model=model))
        found = model(frames)
    assert [p is q for p, q in zip(parameters, model.parameters(), strict=True)] == [True] * 4
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model(frames).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)
