"""Costs in the log, in the vis backends and in a file."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MessageHub, MMLogger
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from mmpose.registry import METRICS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import skippose
from skippose.evaluation import ClipEvaluator, SparsityMetric
from skippose.report import LayerCost

# Two gated layers and one that is always dense, over 4 frames of one clip and 2 of another:
# layer a is computed in full once in 4 and never, b at 1/2 and at 1/4 of its outputs.
MACS = dict(a=3_000_000, b=1_000_000, c=500_000)


def report(frames: int, a: float, b: float, gate: float = 0.0) -> skippose.Report:
    """``a`` and ``b``: sums over frames of the share computed."""
    return skippose.Report(
        (
            LayerCost("a", MACS["a"], gated=True, density_sum=a),
            LayerCost("b", MACS["b"], 100_000, gated=True, density_sum=b, gate_density_sum=gate),
            LayerCost("c", MACS["c"], density_sum=float(frames)),
        ),
        frames=frames,
        first_frames=1,
    )


FIRST, SECOND = report(4, 1.0, 2.0, 4.0), report(2, 0.0, 0.5, 1.0)
GMACS = (3e6 * 1 / 6 + 1e6 * 2.5 / 6 + 0.5e6 + 1e5 * 5 / 6) / 1e9
DENSE = 4.5e-3
EXPECTED = dict(
    GMACs=GMACS,
    reduction=DENSE / GMACS,
    sparsity=1 - (1 / 6 + 2.5 / 6) / 2,
    dense_GMACs=DENSE,
)


def clip(name: str, length: int, costs: skippose.Report | None) -> list[BaseDataElement]:
    samples = [BaseDataElement(metainfo=dict(clip_id=name, frame=t, id=t)) for t in range(length)]
    if costs is not None:
        samples[0].sparsity = costs
    return samples


@pytest.fixture(autouse=True)
def nothing_global(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """mmengine's loggers, hubs and visualizers are global; these tests make their own."""
    for manager in (MMLogger, MessageHub, Visualizer):
        monkeypatch.setattr(manager, "_instance_dict", type(manager._instance_dict)())
    yield


def evaluate(metric: SparsityMetric, *clips: list[BaseDataElement]) -> dict:
    evaluator = ClipEvaluator([metric])
    for samples in clips:
        evaluator.process(samples)
    return evaluator.evaluate(len(clips))


def test_it_is_registered() -> None:
    assert type(METRICS.build(dict(type="SparsityMetric"))) is SparsityMetric


def test_clips_of_one_frame_measure_the_dense_network_alone(tmp_path: Path) -> None:
    Visualizer.get_instance("test", vis_backends=[dict(type="LocalVisBackend")], save_dir=tmp_path)
    costs = report(0, 0.0, 0.0)
    assert evaluate(SparsityMetric(), clip("one", 1, costs)) == {"dense_GMACs": DENSE}
    assert not [path for path in tmp_path.rglob("*.json") if "NaN" in path.read_text()]


def test_the_totals_are_over_all_frames_of_all_clips() -> None:
    values = evaluate(SparsityMetric(), clip("one", 5, FIRST), clip("two", 3, SECOND))
    assert values == pytest.approx(EXPECTED)


def test_a_prefix_is_put_in_front() -> None:
    values = evaluate(SparsityMetric(prefix="cost"), clip("one", 5, FIRST))
    assert sorted(values) == ["cost/GMACs", "cost/dense_GMACs", "cost/reduction", "cost/sparsity"]


def test_a_second_evaluation_starts_anew() -> None:
    metric = SparsityMetric()
    evaluate(metric, clip("one", 5, FIRST))
    again = evaluate(metric, clip("two", 3, SECOND))
    assert again["sparsity"] == pytest.approx(1 - 0.25 / 2)


def test_a_still_video_has_no_costs() -> None:
    net = skippose.convert(nn.Conv2d(2, 3, 3), dict(type="InputNormGate", eps=0.1))
    with torch.no_grad(), skippose.clips(3) as run:
        net.eval()(torch.ones(3, 2, 8, 8))
    values = evaluate(SparsityMetric(), clip("one", 3, run.clip_reports(net)[0]))
    assert values["GMACs"] == 0.0
    assert values["reduction"] == math.inf
    assert values["sparsity"] == 1.0


def test_the_file_beside_the_log(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    MMLogger.get_instance("of this run", log_file=str(tmp_path / "run" / "run.log"))
    MessageHub.get_instance("of this run").update_info("iter", 120)
    evaluate(SparsityMetric(), clip("one", 5, FIRST), clip("two", 3, SECOND))
    (path,) = tmp_path.rglob("sparsity.json")
    assert path.parent == Path(MMLogger.get_current_instance().log_file).parent
    content = json.loads(path.read_text())
    assert content["iter"] == 120
    assert content["gmacs"] == pytest.approx(EXPECTED["GMACs"])
    assert content["dense_gmacs"] == pytest.approx(EXPECTED["dense_GMACs"])
    assert (content["frames"], content["first_frames"]) == (6, 2)
    layers = {layer["name"]: layer for layer in content["layers"]}
    assert {name: layer["macs"] for name, layer in layers.items()} == MACS
    assert layers["a"]["density"] == pytest.approx(1 / 6)
    assert layers["b"]["density"] == pytest.approx(2.5 / 6)
    assert (layers["c"]["density"], layers["c"]["gated"]) == (1.0, False)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    evaluate(SparsityMetric(out_file=str(path)), clip("one", 5, FIRST))
    assert json.loads(path.read_text())["frames"] == 4


@pytest.mark.parametrize("name", ["still", "one frame"])
def test_the_file_is_json_that_any_reader_takes(tmp_path: Path, name: str) -> None:
    """JSON has no Infinity and no NaN; Python's own reader is lenient, others are not."""
    costs = report(4, 0.0, 0.0) if name == "still" else report(0, 0.0, 0.0)
    path = tmp_path / "costs.json"
    only_gated = skippose.Report(costs.layers[:2], costs.frames, costs.first_frames)
    evaluate(SparsityMetric(out_file=str(path)), clip("one", 5, only_gated))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)


def test_every_layers_density_goes_to_tensorboard(tmp_path: Path) -> None:
    MessageHub.get_instance("of this run").update_info("iter", 7)
    visualizer = Visualizer.get_instance(
        "of this run",
        vis_backends=[dict(type="TensorboardVisBackend")],
        save_dir=str(tmp_path),
    )
    evaluate(SparsityMetric(), clip("one", 5, FIRST), clip("two", 3, SECOND))
    visualizer.close()
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["density/a", "density/b"]
    for name, expected in (("density/a", 1 / 6), ("density/b", 2.5 / 6)):
        (scalar,) = events.Scalars(name)
        assert scalar.step == 7
        assert scalar.value == pytest.approx(expected)


def test_without_costs_it_raises() -> None:
    """A gated network outside of clips is dense: a sparsity of 0 would be a lie."""
    with pytest.raises(RuntimeError, match="1 clips of 4 frames.*outside of clips"):
        evaluate(SparsityMetric(), clip("one", 4, None))


def test_mmengines_own_evaluator_raises() -> None:
    """It counts clips as if they were frames, and would drop most results."""
    evaluator = Evaluator([SparsityMetric()])
    for samples in (clip("one", 5, FIRST), clip("two", 3, SECOND)):
        evaluator.process(samples)
    with pytest.raises(RuntimeError, match="8 frames.*asks for 2.*ClipEvaluator"):
        evaluator.evaluate(2)


def test_clips_of_another_size_raise() -> None:
    """Costs of different input sizes are no one network's."""
    other = skippose.Report((LayerCost("a", 5, gated=True, density_sum=1.0),), 4, 1)
    with pytest.raises(ValueError, match="cannot be added"):
        evaluate(SparsityMetric(), clip("one", 5, FIRST), clip("two", 5, other))
