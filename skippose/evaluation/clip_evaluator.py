"""Evaluation whose unit is the frame although the data set's item is the clip."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import EVALUATOR, LOOPS, METRICS  # mmpose 1.1 has no registry of evaluators
from mmengine.runner import TestLoop
from mmengine.structures import BaseDataElement

# What tells one frame of one person from all others. Samples of a clip data set carry the first
# two; those of an ordinary mmpose data set the last two.
_KEY_FIELDS = ("clip_id", "frame", "img_id", "id")


@dataclass(frozen=True)
class _Clip:
    """What is remembered of a clip that was processed on this rank."""

    key: tuple
    frames: int
    results: list[int]  # for each metric, how many results the clip has added


@EVALUATOR.register_module()
class ClipEvaluator(Evaluator):
    """An evaluator that counts frames.

    mmengine hands an evaluator ``len(dataset)``, and its metrics cut their collected results to
    that length, to drop the samples that a distributed sampler repeats so that all ranks have
    equally many. With clips as items this keeps as many *frames* as there are clips: the metric of
    a small part of the data, without a word. Here the metrics get the number of results that there
    are, after each clip that a rank repeats has been taken out by its identity.

    It serves data sets of single images as well: a sample without ``clip_id`` is a clip of its own.

    A metric's config may say ``optional=True``: where a package that it needs is not installed, the
    metric is left out and its reason logged as a warning.

    Args:
        metrics: One metric or a sequence of them, built or as configs.
    """

    def __init__(self, metrics: Any) -> None:
        metrics = metrics if isinstance(metrics, Sequence) else [metrics]
        super().__init__([m for m in map(_build, metrics) if m is not None])
        self._clips: list[_Clip] = []

    def process(
        self, data_samples: Sequence[BaseDataElement | dict], data_batch: Any | None = None
    ) -> None:
        """Hands the samples to every metric, one clip at a time.

        Args:
            data_samples: Predictions with their ground truth, a flat sequence; the frames of a clip
                stand next to each other.
            data_batch: The batch that they come from, or None. Metrics get it whole.
        """
        samples = [s.to_dict() if isinstance(s, BaseDataElement) else s for s in data_samples]
        for clip in _split(samples):
            before = [len(metric.results) for metric in self.metrics]
            for metric in self.metrics:
                metric.process(data_batch, clip)
            after = [len(metric.results) for metric in self.metrics]
            added = [b - a for a, b in zip(before, after, strict=True)]
            self._clips.append(_Clip(_key(clip[0]), len(clip), added))

    def evaluate(self, size: int | None = None) -> dict:
        """Computes every metric over all frames of all ranks.

        Args:
            size: The length of the data set, in its own items. Not used: it is clips, and the
                number of results is known here.

        Returns:
            The values of all metrics by name.

        Raises:
            ValueError: Two metrics give a value of the same name.
        """
        clips, self._clips = self._clips, []
        counts = self._share_out(clips)
        values: dict = {}
        for metric, count in zip(self.metrics, counts, strict=True):
            new = metric.evaluate(count)
            twice = sorted(values.keys() & new.keys())
            if twice:
                raise ValueError(
                    f"{type(metric).__name__} and a metric before it both give {twice}; "
                    "set `prefix` in one of them"
                )
            values.update(new)
        return values

    def _share_out(self, clips: list[_Clip]) -> list[int]:
        """Leaves each clip's results on one rank only; returns the size to give to each metric.

        mmengine collects the results of the ranks in turn (first of rank 0, first of rank 1, ...,
        second of rank 0, ...). The results are brought into the order of the data set and dealt out
        to the ranks in that pattern, so that what is collected is what one process would have.
        """
        chunks = [_chunks(metric.results, clips, i) for i, metric in enumerate(self.metrics)]
        ranks = all_gather_object((clips, chunks))
        rank, world = get_rank(), get_world_size()
        order = _first_seen([clips for clips, _ in ranks])
        frames = sum(ranks[r][0][n].frames for r, n in order)

        sizes = []
        for i, metric in enumerate(self.metrics):
            merged = [result for r, n in order for result in ranks[r][1][i][n]]
            # A metric without results of its own wraps others, which have one per frame.
            sizes.append(len(merged) or frames)
            # Equally many on each rank; mmengine drops what is None or beyond the size.
            merged += [None] * (-len(merged) % world)
            metric.results[:] = merged[rank::world]
        return sizes


@LOOPS.register_module()
class ClipTestLoop(TestLoop):
    """mmengine's test loop with a :class:`ClipEvaluator` around all its metrics.

    mmpose's ``tools/test.py --dump`` turns ``test_evaluator`` into a list of the configured
    evaluator and ``DumpResults``. From that list mmengine would build a plain evaluator, which
    cannot hold another one and would dump as many frames as there are clips.

    Args:
        runner: The runner.
        dataloader: A data loader or its config.
        evaluator: An evaluator, a config of one, of a metric, or a sequence of any of these.
        **kwargs: mmengine's own (``fp16``).
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, **kwargs: Any) -> None:
        if not isinstance(evaluator, Evaluator):
            evaluator = ClipEvaluator(_flatten(evaluator))
        super().__init__(runner, dataloader, evaluator, **kwargs)


def _build(metric: Any) -> Any:
    """A metric of a config; None for an optional one whose package is missing."""
    if not isinstance(metric, dict) or "optional" not in metric:
        return metric
    config = dict(metric)
    optional = config.pop("optional")
    try:
        return METRICS.build(config)
    except ImportError as error:
        if not optional:
            raise
        print_log(f"{config['type']} is left out: {error}", "current", logging.WARNING)
        return None


def _flatten(evaluator: Any) -> list:
    """The metrics within nested evaluators' configs, in their order."""
    if isinstance(evaluator, list | tuple):
        return [metric for part in evaluator for metric in _flatten(part)]
    if isinstance(evaluator, dict) and "metrics" in evaluator:
        return _flatten(evaluator["metrics"])
    return [evaluator]


def _split(samples: list[dict]) -> list[list[dict]]:
    """Cuts a flat list of samples into its clips."""
    clips: list[list[dict]] = []
    for sample in samples:
        clip_id = sample.get("clip_id")
        if clips and clip_id is not None and clips[-1][-1].get("clip_id") == clip_id:
            previous = clips[-1][-1].get("frame")
            # A clip that the batch holds twice begins again.
            if previous is None or sample["frame"] > previous:
                clips[-1].append(sample)
                continue
        clips.append([sample])
    return clips


def _key(sample: dict) -> tuple:
    key = tuple(sample.get(field) for field in _KEY_FIELDS)
    if get_world_size() > 1 and all(value is None for value in key):
        raise KeyError(
            f"a sample to evaluate has none of the fields {_KEY_FIELDS}, so that samples which a "
            f"distributed sampler repeats cannot be told from others; it has {sorted(sample)}"
        )
    return key


def _chunks(results: list, clips: list[_Clip], metric: int) -> list[list]:
    """Cuts a metric's results into what each clip has added."""
    chunks, start = [], 0
    for clip in clips:
        chunks.append(results[start : start + clip.results[metric]])
        start += clip.results[metric]
    return chunks


def _first_seen(ranks: list[list[_Clip]]) -> list[tuple[int, int]]:
    """The clips of all ranks in the order of the data set, without those seen before.

    Returns:
        Pairs of rank and position within that rank.
    """
    order, seen = [], set()
    for n in range(max(map(len, ranks), default=0)):
        for rank, clips in enumerate(ranks):
            if n >= len(clips):
                continue
            key = clips[n].key
            anonymous = all(value is None for value in key)
            if anonymous or key not in seen:
                seen.add(key)
                order.append((rank, n))
    return order
