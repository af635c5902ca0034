"""MACs and sparsity beside the accuracy, in one log line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.fileio import dump
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer
from mmpose.registry import METRICS

from skippose.report import Report, total


@METRICS.register_module()
class SparsityMetric(BaseMetric):
    """Costs of a gated network over all frames of all clips.

    Gives ``GMACs`` per frame after a clip's first, gates included; ``reduction``, the dense
    network's MACs over those; ``sparsity``, the mean over gated layers of the outputs skipped;
    ``dense_GMACs``, also the cost of a first frame. Every layer's density goes to the vis backends
    as ``density/<layer>``, and with the totals to ``sparsity.json`` beside the log. Where no clip
    has a second frame, ``dense_GMACs`` alone is measured, and given.

    Args:
        out_file: where to write the JSON; by default ``sparsity.json`` in the log's folder.
        collect_device: see mmengine.
        prefix: see mmengine.
    """

    default_prefix = ""  # names of its own; mmengine would warn of None

    def __init__(
        self, out_file: str | None = None, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_file = out_file

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Takes the costs that the first sample of each clip carries; one result per frame."""
        self.results.extend((s.get("clip_id"), s.get("sparsity")) for s in data_samples)

    def evaluate(self, size: int) -> dict:
        """As mmengine's, after a check that ``size`` counts frames.

        Raises:
            RuntimeError: if mmengine's own evaluator is used, which counts clips as if they were
                frames and evaluates every metric on a part of the data.
        """
        if size < len(self.results):
            raise RuntimeError(
                f"{len(self.results)} frames were processed, but the evaluator asks for {size} "
                "(the number of clips): every metric would see a part of the frames only; use "
                "val_evaluator = dict(type='ClipEvaluator', metrics=[...])"
            )
        return super().evaluate(size)

    def compute_metrics(self, results: list[tuple[str | None, Report | None]]) -> dict[str, float]:
        """The totals, which go to the log.

        Raises:
            RuntimeError: if a clip lacks its costs, because the network ran outside of clips.
        """
        reports = [report for _, report in results if report is not None]
        without = {clip for clip, _ in results} - {clip for clip, r in results if r is not None}
        if without or not reports:
            raise RuntimeError(
                f"{len(without)} clips of {len(results)} frames in all came without their costs: "
                "the network was evaluated outside of clips, where it is dense; use "
                "SkipTopdownPoseEstimator with ClipDataset and ClipPoseDataPreprocessor"
            )
        report = total(reports)
        self._publish(report)
        found = {
            "GMACs": report.gmacs,
            "reduction": report.reduction,
            "sparsity": report.sparsity,
            "dense_GMACs": report.dense_gmacs,
        }
        return _measured(found)

    def _publish(self, report: Report) -> None:
        step = MessageHub.get_current_instance().get_info("iter", 0)
        if Visualizer._instance_dict:
            scalars = {f"density/{name}": value for name, value in report.densities.items()}
            Visualizer.get_current_instance().add_scalars(_measured(scalars), step=step)
        out_file = self.out_file
        if out_file is None:
            log_file = getattr(MMLogger.get_current_instance(), "log_file", None)
            if log_file is None:
                return
            out_file = str(Path(log_file).parent / "sparsity.json")
        dump({"iter": step, **report.to_dict()}, out_file, indent=1)


def _measured(values: dict[str, float]) -> dict[str, float]:
    """Without NaN, for which JSON has no word and mmengine's backends no rule."""
    return {name: value for name, value in values.items() if not math.isnan(value)}
