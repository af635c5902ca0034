"""Bootstrap over clips."""

import numpy as np
import pytest

from skippose.evaluation.bootstrap import interval, resamples


def test_draws_are_with_replacement_and_the_same_every_time():
    draws = resamples(5, 300)
    assert draws.shape == (300, 5)
    assert (draws.sum(1) == 5).all() and draws.max() > 1
    assert np.array_equal(draws, resamples(5, 300))
    assert not np.array_equal(draws, resamples(5, 300, seed=1))


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = interval(resamples(400, 4000) @ values / 400)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_what_is_not_a_number_is_left_out():
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_no_clips_raise():
    with pytest.raises(ValueError, match="at least one clip"):
        resamples(0)
