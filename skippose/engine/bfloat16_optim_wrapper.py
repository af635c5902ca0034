"""Mixed precision that also works on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmpose.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs forward passes in bfloat16 under autocast; weights and their updates stay float32.

    mmengine's ``AmpOptimWrapper`` refuses to work without an accelerator. bfloat16 has the range of
    float32, so there is no loss to be scaled, and CPUs with AMX or AVX512-BF16 compute it faster.
    The arguments are those of ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """A context for the forward pass."""
        # get_device may name an index as well ("cuda:0"), which autocast does not take.
        device = get_device().split(":")[0]
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
