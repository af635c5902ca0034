"""Sums of updates on a GPU are not rounded to TF32."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from skippose.ops.geometry import without_tf32

# torch 2.9 names each operation's precision.
CONV = getattr(torch.backends.cudnn, "conv", None)


def tf32() -> bool:
    """Whether cuDNN may take TF32 for a convolution of float32."""
    if CONV is None:
        return bool(torch.backends.cudnn.allow_tf32)
    return CONV.fp32_precision == "tf32"


@pytest.fixture(autouse=True)
def _as_usual() -> Iterator[None]:
    owner, name = (torch.backends.cudnn, "allow_tf32") if CONV is None else (CONV, "fp32_precision")
    before = getattr(owner, name)
    setattr(owner, name, True if CONV is None else "tf32")
    yield
    setattr(owner, name, before)


def like(dtype: torch.dtype = torch.float32, cuda: bool = True) -> Tensor:
    return cast(Tensor, SimpleNamespace(is_cuda=cuda, dtype=dtype))


def test_a_stream_sums_in_float32_proper() -> None:
    with torch.no_grad(), without_tf32(like()):
        assert not tf32()
    assert tf32()


def test_the_switch_is_as_before_after_a_failure() -> None:
    with pytest.raises(RuntimeError, match="failed"), torch.no_grad(), without_tf32(like()):
        raise RuntimeError("failed")
    assert tf32()


@pytest.mark.parametrize("x", [like(torch.float64), like(torch.bfloat16), like(cuda=False)])
def test_elsewhere_nothing_is_switched(x: Tensor) -> None:
    with torch.no_grad(), without_tf32(x):
        assert tf32()


def test_training_takes_what_torch_takes() -> None:
    with without_tf32(like()):
        assert tf32()
