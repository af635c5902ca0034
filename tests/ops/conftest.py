"""Videos and layers for the tests of the operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def video() -> Callable[..., Tensor]:
    """Makes (B, T, C, H, W): pixels change now and then, by little or much; one frame is still."""

    def make(
        batch: int = 2,
        frames: int = 5,
        channels: int = 4,
        size: tuple[int, int] = (11, 9),
        dtype: torch.dtype = torch.float64,
        still: bool = True,
    ) -> Tensor:
        x = torch.randn(batch, frames, channels, *size, dtype=torch.float64)
        moves = (torch.rand(batch, frames, 1, *size) < 0.3).double()
        for t in range(1, frames):
            amount = torch.rand(batch, 1, 1, 1).double()
            x[:, t] = x[:, t - 1] + moves[:, t] * amount * x[:, t]
        if still and frames > 3:
            x[-1, 3] = x[-1, 2]
        return x.to(dtype)

    return make
