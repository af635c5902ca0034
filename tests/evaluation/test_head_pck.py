"""PCKh with the head's length as the norm, and metrics that may be left out."""

import numpy as np
import pytest

from skippose.evaluation import ClipEvaluator, head_pck
from skippose.evaluation.head_pck import HeadPCKAccuracy

META = dict(keypoint_name2id=dict(head_bottom=0, head_top=1, wrist=2))


def sample(error: float, head: float = 10.0, visible: tuple = (1, 1, 1)) -> dict:
    truth = np.array([[[0, 0], [0, head], [50, 50]]], np.float32)
    guess = truth + np.array([[[0, 0], [0, 0], [error, 0]]], np.float32)
    return dict(
        pred_instances=dict(keypoints=guess, keypoint_scores=np.ones((1, 3))),
        gt_instances=dict(keypoints=truth, keypoints_visible=np.array([visible], np.float32)),
    )


def pckh(samples: list[dict], **settings) -> float:
    metric = HeadPCKAccuracy(**settings)
    metric.dataset_meta = META
    metric.process(None, samples)
    return metric.evaluate(len(samples))["PCKh"]


def test_the_norm_is_the_heads_length():
    assert pckh([sample(4.9)]) == pytest.approx(1)
    assert pckh([sample(5.1)]) == pytest.approx(2 / 3)
    assert pckh([sample(5.1, head=11)]) == pytest.approx(1)
    assert pckh([sample(5.1)], thr=0.6) == pytest.approx(1)
    assert pckh([sample(0), sample(9)]) == pytest.approx((1 + 1 + 0.5) / 3)


def test_a_person_without_a_head_is_left_out():
    assert pckh([sample(0), sample(9, visible=(1, 0, 1))]) == pytest.approx(1)


def test_without_any_head_there_is_no_value_and_a_warning(monkeypatch):
    said = []
    monkeypatch.setattr(head_pck, "print_log", lambda text, **rest: said.append(text))
    metric = HeadPCKAccuracy()
    metric.dataset_meta = META
    metric.process(None, [sample(0, visible=(0, 1, 1)), sample(0, head=0)])
    assert metric.evaluate(2) == {}
    (text,) = said
    assert "none of 2 person-frames has both head_bottom and head_top" in text


def test_a_data_set_without_these_joints_is_refused():
    metric = HeadPCKAccuracy(head=("neck", "head_top"))
    metric.dataset_meta = META
    with pytest.raises(ValueError, match=r"no joints \['neck'\]; it has \['head_bottom'"):
        metric.process(None, [sample(0)])


@pytest.fixture
def needs_a_package():
    from mmengine.evaluator import BaseMetric
    from mmpose.registry import METRICS

    class NeedsAPackage(BaseMetric):
        def __init__(self, fail: bool = True) -> None:
            if fail:
                raise ImportError("install rarepackage")
            super().__init__()

        def process(self, data_batch, data_samples) -> None:
            self.results += list(data_samples)

        def compute_metrics(self, results) -> dict:
            return {"seen": len(results)}

    METRICS.register_module(module=NeedsAPackage)
    yield
    METRICS.module_dict.pop("NeedsAPackage")


def test_an_optional_metric_is_left_out_with_its_reason(needs_a_package, monkeypatch):
    from mmengine.registry import DefaultScope

    import skippose.evaluation.clip_evaluator as module

    said = []
    monkeypatch.setattr(module, "print_log", lambda text, *rest: said.append(text))
    with DefaultScope.overwrite_default_scope("mmpose"):
        optional = dict(type="NeedsAPackage", optional=True)
        evaluator = ClipEvaluator([optional, dict(type="HeadPCKAccuracy")])
        assert [type(m).__name__ for m in evaluator.metrics] == ["HeadPCKAccuracy"]
        assert said == ["NeedsAPackage is left out: install rarepackage"]
        assert len(ClipEvaluator([dict(optional, fail=False)]).metrics) == 1
        for wanted in (dict(type="NeedsAPackage"), dict(optional, optional=False)):
            with pytest.raises(ImportError, match="rarepackage"):
                ClipEvaluator([wanted])
