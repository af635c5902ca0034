"""Networks, videos, and the check of a backend against the step form, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skippose.backends.torch_blocks.backend import BlocksBackend
from skippose.ops import SkipState, empty_state, skip_conv_step, step_score
from skippose.ops.masks import changed_outputs
from skippose.plan.operators.conv import Conv
from tests.zoo import hrnet, lively, moving_video, real_video


class LayerByLayer:
    """Follows a captured backend and repeats every operation on the backend's own inputs.

    Convolutions are repeated in the step form, their state kept here and moved on by the backend's
    masks: one mask that differs within rounding does not change everything after it.

    Args:
        net: the network.
        frame: the first one.
        schedule: which frames are dense.
        margin: share of a layer's largest score within which a mask may differ.
        tolerance: share of an output's largest value by which outputs may differ.
        kind: the backend.
        **options: its options.
    """

    def __init__(
        self, net, frame, schedule, margin: float, tolerance: float, kind=BlocksBackend, **options
    ) -> None:
        self.backend = kind(net, frame, schedule, **options)
        self.plan, self.margin, self.tolerance = self.backend.plan, margin, tolerance
        self.states = {op.key: self._empty(op, frame.shape[0]) for op in self.plan.gated}
        self.masks_seen = self.masks_near = 0
        self.open_sum = 0.0

    @torch.no_grad()
    def step(self, frame: Tensor) -> Tensor:
        """A frame through the backend, every operation checked."""
        age = self.backend.age
        output = self.backend.step(frame)
        dense = self.backend.schedule.due(age) | (self.backend.age == 1)  # cuts begin anew
        maps, masks = self.backend.maps(), self.backend.masks()
        maps = {v: m.to(frame.dtype) for v, m in maps.items()}
        torch.testing.assert_close(maps[0], frame, rtol=self.tolerance, atol=self.tolerance)
        for op in self.plan.ops:
            inputs = [maps[v] for v in op.inputs]
            if op.gated is not None:
                opened = masks[self.backend.names[op.key]].opened[:, None]
                z = self._gated(op, inputs[0], opened, dense)
                expected = op.activation(op.finish(z.to(frame.dtype), inputs[1:]).clone())
            else:
                expected = op.apply(inputs, self.plan.values[op.output])
            found = maps[op.output]
            worst = float((found - expected).abs().max())
            allowed = self.tolerance * float(expected.abs().max().clamp_min(1e-3))
            assert worst <= allowed, f"{op.label} {op.key}: {worst} > {allowed}"
        return output

    def _empty(self, op: Conv, slots: int) -> SkipState:
        value = self.plan.values[op.inputs[0]]
        shape = (slots, value.channels, value.height, value.width)
        return empty_state(op.gated, torch.zeros(shape, dtype=self.plan.dtype), self.plan.dtype)

    def _gated(self, op: Conv, x: Tensor, opened: Tensor, dense: Tensor) -> Tensor:
        layer, conv, before = op.gated, op.convolution(x.dtype), self.states[op.key]
        exact, full = op.weight.dtype, dense[:, None, None, None]
        if layer.reference == "previous":
            change = x.to(exact) - before.x.to(exact)
            response = conv.update(torch.where(full, x.to(exact), change))
        else:
            response = conv(x).to(exact) - conv.start(x)
        score = step_score(x, layer, before, response, conv)
        slack = torch.maximum(self.margin * score.abs().max(), _rounding(x, layer, exact))
        least, most = (layer.gate.decide(score + d, before.scale).bool() for d in (-slack, slack))
        if layer.must_know_changed:
            changed = changed_outputs(x, before.x, layer.conv.geometry)
            least, most = (layer.close_unchanged(m, changed).bool() for m in (least, most))
        least, most = least | full, most | full
        wrong = (opened & ~most) | (least & ~opened)
        assert not bool(wrong.any()), f"{op.key}: {int(wrong.sum())} of {wrong.numel()} gates"
        self.masks_seen += opened.numel()
        self.masks_near += int((most & ~least).sum())
        if not bool(dense.all()):
            self.open_sum += float(opened[~dense].float().mean()) / len(self.plan.gated)
        result = skip_conv_step(x, layer, before, dense, conv=conv, imposed=opened)
        self.states[op.key] = result.state
        return result.z


def _rounding(x: Tensor, layer, exact: torch.dtype) -> Tensor:
    """What rounding alone may do to the scores of one layer, beyond a share of the largest.

    A linear gate under hold subtracts two sums, φ*x now and φ*x when it was held. Each rounds with
    its terms, which are a thousand times what is left where little changed: seen were 0.3 units in
    the last place of the terms' sum, allowed are 2.
    """
    if not layer.holds_score:
        return x.new_zeros((), dtype=exact)
    phi = layer.spec.score.weight.detach().to(exact).abs()
    terms = layer.conv.geometry.ungrouped().convolve(x.to(exact).abs(), phi)
    return 2 * torch.finfo(exact).eps * terms.max()


@pytest.fixture
def follow() -> type[LayerByLayer]:
    return LayerByLayer


@pytest.fixture
def make_hrnet():
    return hrnet


@pytest.fixture
def make_lively():
    return lively


@pytest.fixture
def make_real_video():
    return real_video


@pytest.fixture
def make_moving_video():
    return moving_video
