"""One operation for the library, with the memory that its structure points into."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from skippose.backends.native.library import Floats, Ints, SkpConv, SkpElement
from skippose.plan.plan import Conv


class Described:
    """A structure for the library, and the arrays that it points into."""

    def __init__(self, struct: SkpConv | SkpElement, conv: Conv | None = None) -> None:
        self.struct, self.conv = struct, conv
        self._arrays: list[Tensor] = []

    def floats(self, tensor: Tensor | None) -> Any:
        """The memory of a tensor as float32, kept alive with the structure."""
        if tensor is None:
            return None
        array = tensor.detach().to("cpu", torch.float32).contiguous()
        self._arrays.append(array)
        return ctypes.cast(array.data_ptr(), Floats)

    def ints(self, tensor: Tensor) -> Any:
        """Likewise int32."""
        array = tensor.to(torch.int32).contiguous()
        self._arrays.append(array)
        return ctypes.cast(array.data_ptr(), Ints)
