"""One operation for the library, with the memory that its structure points into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skippose.backends.native import memory
from skippose.backends.native.library import SkpConv, SkpElement
from skippose.plan.plan import Conv


class Described:
    """A structure for the library, and the arrays that it points into."""

    def __init__(self, struct: SkpConv | SkpElement, conv: Conv | None = None) -> None:
        self.struct, self.conv = struct, conv
        self._arrays: list[Tensor] = []

    def floats(self, tensor: Tensor, *shape: int) -> Any:
        """A pointer to a tensor of this shape as float32, kept alive with the structure."""
        return self._pointer(tensor, torch.float32, shape)

    def ints(self, tensor: Tensor, *shape: int) -> Any:
        """Likewise int32."""
        return self._pointer(tensor, torch.int32, shape)

    def _pointer(self, tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Any:
        self._arrays.append(memory.readable(tensor, dtype))
        return memory.address(self._arrays[-1], dtype, shape)
