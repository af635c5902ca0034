"""Losses, intervals and equal budgets from results that are made up."""

import numpy as np
import pytest

pytest.importorskip("mmpose")

from skippose.evaluation.comparison import Result
from skippose.evaluation.records import equal_budgets, record
from skippose.evaluation.scores import METRICS, Scores
from skippose.report import LayerCost, Report

CLIPS, JOINTS, FRAMES = 5, 3, 10


def result(accuracy: float | np.ndarray, density: float) -> Result:
    """Clips of 100 joints each, of which a share is found; a layer of one GMAC."""
    found = np.broadcast_to(np.reshape(accuracy, (-1, 1, 1)), (CLIPS, len(METRICS), JOINTS))
    valid = np.full(found.shape, 100)
    layer = LayerCost("conv", 10**9, gated=True, density_sum=density * FRAMES)
    return Result(
        [f"clip{n}" for n in range(CLIPS)],
        ["still", "still", "moving", "moving", "moving"],
        Scores(np.round(found * 100).astype(int), valid),
        [Report((layer,), FRAMES, 1)] * CLIPS,
    )


DENSE, FROZEN = result(0.8, 1.0), result(0.4, 0.0)


def test_loss_is_a_share_of_dense_minus_frozen():
    found = record(result(0.7, 0.25), DENSE, FROZEN, [0, 1])
    assert found["PCK@0.1 loss"] == pytest.approx(0.25)
    # Clips that are alike leave nothing to the draw.
    assert found["PCK@0.1 loss low"] == pytest.approx(found["PCK@0.1 loss high"])
    assert found["PCK@0.2 - dense"] == pytest.approx(-0.1)
    assert found["reduction"] == pytest.approx(4)
    assert found["frames"] == CLIPS * (FRAMES + 1)
    assert found["PCK@0.2 13 joints"] == pytest.approx(0.7)
    assert record(FROZEN, DENSE, FROZEN, None)["reduction"] == float("inf")
    assert np.isnan(record(DENSE, DENSE, DENSE, None)["PCK@0.2 loss"])


def test_intervals_are_paired():
    hard = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    found = record(result(hard - 0.1, 0.5), result(hard, 1.0), FROZEN, None)
    assert found["PCK@0.2 high"] - found["PCK@0.2 low"] > 0.3
    assert found["PCK@0.2 - dense low"] == pytest.approx(-0.1)
    assert found["PCK@0.2 - dense high"] == pytest.approx(-0.1)


def test_rows_over_other_clips_raise():
    other = DENSE.subset("moving")
    with pytest.raises(ValueError, match="different clips"):
        record(other, DENSE, FROZEN, None)
    with pytest.raises(ValueError, match="different clips"):
        equal_budgets([DENSE], [other])


def test_equal_budgets_are_read_off_straight_lines():
    first = [result(0.8, 1.0), result(0.6, 0.01)]
    second = [result(0.7, 0.1), result(0.5, 0.001), result(0.75, 0.5)]
    found = equal_budgets(first, second, count=3)
    assert [line["GMACs"] for line in found] == pytest.approx([0.01, 0.5**0.5 / 10, 0.5])
    assert found[0]["PCK@0.2 first"] == pytest.approx(0.6)
    assert found[0]["PCK@0.2 second"] == pytest.approx(0.6)  # half way from 0.001 to 0.1
    assert found[2]["PCK@0.1 second"] == pytest.approx(0.75)
    share = np.log(0.5 / 0.01) / np.log(100)
    assert found[2]["PCK@0.1 first"] == pytest.approx(0.6 + 0.2 * share)
    for line in found:
        difference = line["PCK@0.2 first"] - line["PCK@0.2 second"]
        assert line["PCK@0.2 first - second"] == pytest.approx(difference)
        assert line["PCK@0.2 low"] == pytest.approx(difference)  # clips are alike


def test_an_interval_of_a_difference_covers_it():
    hard = np.array([0.3, 0.4, 0.6, 0.8, 0.9])
    uneven = hard + np.array([0.1, -0.1, 0.0, 0.1, -0.2])
    curves = ([result(hard, 0.1), result(hard, 1.0)], [result(uneven, 0.1), result(uneven, 1.0)])
    for line in equal_budgets(*curves):
        assert line["PCK@0.2 low"] < line["PCK@0.2 first - second"] < line["PCK@0.2 high"]


def test_budgets_that_do_not_meet_raise():
    with pytest.raises(ValueError, match="no budgets in common.*0.1 to 0.1"):
        equal_budgets([result(0.5, 0.1)], [result(0.5, 0.2), result(0.6, 0.5)])


def test_a_result_survives_its_file(tmp_path):
    path = tmp_path / "row.json"
    before = result(0.7, 0.25)
    before.save(path, {"name": "x"})
    after = Result.load(path)
    assert after.reports == before.reports and after.cameras == before.cameras
    assert (after.scores.correct == before.scores.correct).all()
    path.write_text("{}")
    with pytest.raises(ValueError, match="delete it"):
        Result.load(path)
