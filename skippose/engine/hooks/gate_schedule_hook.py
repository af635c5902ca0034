"""How softly and how noisily Gumbel gates decide, over a training."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from skippose.gates import Sampled


@HOOKS.register_module()
class GateScheduleHook(Hook):
    """Changes temperature and noise of all Gumbel gates from iteration to iteration.

    Each goes from its first value to its last along a straight line, between the shares ``begin``
    and ``end`` of all iterations, and stays before and after. The values follow from the iteration
    alone: a training that is resumed goes on with them.

    The temperature shapes the gradient; a low one confines it to logits near zero. The noise is
    what makes a gate try: with less of it a gate decides in training as it does in evaluation,
    which has none, and so the share of MACs of the last iterations is that of the tested network.

    Args:
        temperature: first and last; 2/3 throughout is the paper's.
        noise: first and last, see :class:`~skippose.gates.GumbelGate`.
        begin: share of the iterations before anything changes.
        end: share of the iterations after which nothing changes.

    Raises:
        ValueError: for a temperature that is not positive, a negative noise, or shares that are
            not in order within 0 to 1.
    """

    def __init__(
        self,
        temperature: tuple[float, float] = (2 / 3, 2 / 3),
        noise: tuple[float, float] = (1.0, 1.0),
        begin: float = 0.0,
        end: float = 1.0,
    ) -> None:
        if not all(math.isfinite(t) and t > 0 for t in temperature):
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not all(math.isfinite(n) and n >= 0 for n in noise):
            raise ValueError(f"noise must be at least 0, got {noise}")
        if not 0 <= begin <= end <= 1:
            raise ValueError(f"expected 0 <= begin <= end <= 1, got begin={begin}, end={end}")
        self.temperature = temperature
        self.noise = noise
        self.begin, self.end = begin, end

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Sets the values of this iteration."""
        share = runner.iter / max(runner.max_iters - 1, 1)
        span = self.end - self.begin
        way = (share - self.begin) / span if span else float(share > self.begin)
        way = min(max(way, 0.0), 1.0)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for module in model.modules():
            if isinstance(module, Sampled):
                module.temperature = _between(self.temperature, way)
                module.noise = _between(self.noise, way)


def _between(values: tuple[float, float], way: float) -> float:
    return values[0] + way * (values[1] - values[0])
