"""One operation for the library, with the memory that its structure points into."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from skippose.backends.native.library import Activations, Floats, Ints
from skippose.plan.activation import Activation
from skippose.plan.errors import BackendError
from skippose.plan.operators.conv import Conv


class Lowered:
    """A structure for the library, and the arrays that it points into.

    Attributes:
        struct: an ``SkpConv`` or ``SkpElement``.
        conv: the gated convolution that it is, or None.
    """

    def __init__(self, struct: Any, conv: Conv | None = None) -> None:
        self.struct, self.conv = struct, conv
        self._arrays: list[Tensor] = []

    def write(self, **fields: Any) -> None:
        """Fills fields in by name: numbers, sequences of numbers, and tensors or None."""
        types = dict(self.struct._fields_)
        for name, value in fields.items():
            kind = types[name]
            if kind is Floats:
                setattr(self.struct, name, self.floats(value))
            elif kind is Ints:
                setattr(self.struct, name, self.ints(value))
            elif issubclass(kind, ctypes.Array):
                setattr(self.struct, name, kind(*value))
            else:
                setattr(self.struct, name, value)

    def activate(self, act: Activation) -> None:
        """Fills the activation in.

        Raises:
            BackendError: for one that the library does not have, named.
        """
        name = act.kind.name
        if name not in Activations.__members__:
            raise BackendError(f"the native engine has no activation {name!r}")
        self.write(act=Activations[name], act_a=act.low, act_b=act.high)

    def floats(self, tensor: Tensor | None) -> Any:
        """The memory of a tensor as float32, kept alive with the structure."""
        return self._memory(tensor, torch.float32, Floats)

    def ints(self, tensor: Tensor | None) -> Any:
        """Likewise int32."""
        return self._memory(tensor, torch.int32, Ints)

    def _memory(self, tensor: Tensor | None, dtype: torch.dtype, kind: Any) -> Any:
        if tensor is None:
            return None
        array = tensor.detach().to("cpu", dtype).contiguous()
        self._arrays.append(array)
        return ctypes.cast(array.data_ptr(), kind)
