"""Memory that Python and the compiled library both see.

Nobody else takes an address: the library believes what it is told, and writes past a buffer that is
shorter, or of a narrower type, than it was told.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

_TYPES: dict[torch.dtype, Any] = {
    torch.float32: ctypes.c_float,
    torch.int32: ctypes.c_int32,
    torch.int64: ctypes.c_int64,
    torch.uint8: ctypes.c_uint8,
}


def empty(*shape: int) -> Tensor:
    """Memory that the library writes to: float32, on the CPU, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor's values as the library reads them: itself where it is so already, else a copy."""
    return tensor.detach().to("cpu", dtype).contiguous().resolve_neg()


def address(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Any:
    """A pointer to a tensor's values, for as long as somebody keeps the tensor.

    Args:
        tensor: from :func:`empty` or :func:`readable`.
        dtype: of what the library takes it for.
        shape: of that; what counts is the number of values.

    Raises:
        ValueError: if the tensor is anything else.
    """
    count = prod(shape)
    if (
        tensor.dtype != dtype
        or not tensor.is_cpu
        or tensor.numel() != count
        or not tensor.is_contiguous()
        or tensor.is_neg()
    ):
        layout = "contiguous" if tensor.is_contiguous() else f"of strides {tensor.stride()}"
        layout += ", a view of their negatives" * tensor.is_neg()
        raise ValueError(
            f"the native engine takes {count} contiguous values of {dtype} on a CPU here, got a "
            f"tensor {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}, {layout}"
        )
    return ctypes.cast(tensor.data_ptr(), ctypes.POINTER(_TYPES[dtype]))


def view(at: int, dtype: torch.dtype, *shape: int) -> Tensor:
    """The library's own memory as a tensor, for as long as the library keeps it.

    Args:
        at: its address.
        dtype: of its values.
        shape: of the view.
    """
    array = (_TYPES[dtype] * prod(shape)).from_address(at)
    return torch.frombuffer(array, dtype=dtype).view(shape)
