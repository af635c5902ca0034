"""Temperature and noise of Gumbel gates over a training."""

from types import SimpleNamespace

import pytest
from torch import nn

import skippose
from skippose.engine import GateScheduleHook
from skippose.gates import GumbelGate


def values(hook: GateScheduleHook, max_iters: int = 11) -> list[tuple[float, float]]:
    """(temperature, noise) in every iteration of a training."""
    net = skippose.convert(nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 1)), GumbelGate())
    gates = [module for module in net.modules() if isinstance(module, GumbelGate)]
    found = []
    for number in range(max_iters):
        runner = SimpleNamespace(model=net, iter=number, max_iters=max_iters)
        hook.before_train_iter(runner, number)
        assert len({(gate.temperature, gate.noise) for gate in gates}) == 1
        found.append((gates[0].temperature, gates[0].noise))
    return found


def test_by_default_nothing_changes():
    assert values(GateScheduleHook()) == [(2 / 3, 1.0)] * 11


def test_values_go_along_a_straight_line():
    found = values(GateScheduleHook(temperature=(1.0, 0.5), noise=(1.0, 0.0), begin=0.2, end=0.7))
    temperatures = [1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5]
    assert [t for t, _ in found] == pytest.approx(temperatures)
    assert [n for _, n in found] == pytest.approx([2 * t - 1 for t in temperatures])


def test_a_step_where_begin_is_end():
    found = values(GateScheduleHook(noise=(1.0, 0.0), begin=0.5, end=0.5))
    assert [n for _, n in found] == [1.0] * 6 + [0.0] * 5


def test_a_training_of_one_iteration():
    assert values(GateScheduleHook(noise=(1.0, 0.0)), 1) == [(2 / 3, 1.0)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(temperature=(1.0, 0.0)), "temperature.*0.0"),
        (dict(noise=(1.0, -0.5)), "noise.*-0.5"),
        (dict(begin=0.5, end=0.2), "begin=0.5, end=0.2"),
        (dict(end=1.5), "end=1.5"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GateScheduleHook(**settings)
