"""Spending MACs where they buy most, and meeting a target."""

import itertools

import numpy as np
import pytest

pytest.importorskip("mmpose")

from skippose.calibration.allocation import Unreachable, allocate, scale_to
from skippose.calibration.sensitivity import Sensitivity


def test_no_other_choice_of_these_macs_has_less_error():
    rng = np.random.default_rng(0)
    for _ in range(20):
        gmacs = np.sort(rng.uniform(0, 1, (4, 3)))[:, ::-1]
        error = np.sort(rng.uniform(0, 1, (4, 3)))
        found = Sensitivity(error, gmacs)
        target = rng.uniform(gmacs.min(1).sum(), gmacs.max(1).sum())
        chosen = allocate(found, target)
        rows = np.arange(4)
        spent, harm = gmacs[rows, chosen].sum(), error[rows, chosen].sum()
        assert spent >= target - 1e-12
        for other in itertools.product(range(3), repeat=4):
            if gmacs[rows, other].sum() <= spent + 1e-12:
                assert error[rows, other].sum() >= harm - 1e-9


def test_a_target_beyond_reach_takes_the_most_expensive():
    found = Sensitivity(np.array([[0.0, 1.0]]), np.array([[2.0, 1.0]]))
    assert allocate(found, 5).tolist() == [0]


@pytest.mark.parametrize("target", [0.02, 0.3, 2.0, 9.0])
def test_a_falling_quantity_meets_its_target(target):
    calls = []

    def measure(factor):
        calls.append(factor)
        return 10 / (1 + factor**1.5)

    found = scale_to(measure, target, falling=True, what="x")
    assert found.value == measure(found.factor)
    assert found.value == pytest.approx(target, rel=0.02)
    assert len(calls) < 20


def test_a_rising_quantity_stays_below_its_target():
    found = scale_to(lambda f: np.floor(8 * f), 33, falling=False, what="x", tolerance=0.1)
    assert 33 * 0.9 <= found.value <= 33


def test_what_cannot_be_reached_says_what_can():
    for target in (5.0, 0.5):
        with pytest.raises(Unreachable, match=r"x cannot be .* between 1\S* and (2|1\.99)"):
            scale_to(lambda f: 1 + 1 / (1 + f), target, falling=True, what="x")
