"""One operation for the library, with the memory that its structure points into."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from skippose.backends.native import memory
from skippose.backends.native.interface import INTERFACE, Floats
from skippose.backends.native.library import ActivationKind
from skippose.plan.activation import Activation
from skippose.plan.errors import BackendError
from skippose.plan.operators.conv import Conv


class Lowered:
    """A structure for the library, and the arrays that it points into.

    Attributes:
        struct: of one of the types in ``INTERFACE.structs``.
        lengths: numbers of values in the arrays that it points to, by the definition's words.
        conv: the gated convolution that it is, or None.
    """

    def __init__(self, struct: Any, lengths: Mapping[str, int]) -> None:
        self.struct, self.lengths = struct, lengths
        self.conv: Conv | None = None
        self._types = dict(struct._fields_)
        self._words = INTERFACE.lengths[type(struct).__name__]
        self._arrays: list[Tensor] = []

    def write(self, **fields: Any) -> None:
        """Fills fields in by name: numbers, sequences of numbers, and tensors or None.

        Raises:
            ValueError: for a tensor of another number of values than the library will read.
        """
        for name, value in fields.items():
            kind = self._types[name]
            if name in self._words:
                length = self.lengths[self._words[name]]
                value = None if value is None else self._pointer(value, kind, (length,))
            elif issubclass(kind, ctypes.Array):
                value = kind(*value)
            setattr(self.struct, name, value)

    def activate(self, act: Activation) -> None:
        """Fills the activation in.

        Raises:
            BackendError: for one that the library does not have, named.
        """
        name = act.kind.name
        if name not in ActivationKind.__members__:
            raise BackendError(f"the native engine has no activation {name!r}")
        self.write(act=ActivationKind[name], act_a=act.low, act_b=act.high)

    def _pointer(self, tensor: Tensor, kind: Any, shape: tuple[int, ...]) -> Any:
        dtype = torch.float32 if kind is Floats else torch.int32
        self._arrays.append(memory.readable(tensor, dtype))  # kept alive with the structure
        return memory.address(self._arrays[-1], dtype, shape)
