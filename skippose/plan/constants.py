"""The tensors of a pass that do not depend on the frame, and which of them may be written to.

A constant that the pass itself makes may be filled piece by piece, as anchors and position codes
are. One that was there before belongs to the network or to somebody else: a write into it is state
that moves on from frame to frame, which a plan does not have.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import Tensor, nn

from skippose.plan.frame_tensor import FrameTensor, replaced
from skippose.plan.op import Op


class Constants:
    """Those that the pass made, kept so that none of their memory is used twice."""

    def __init__(self, net: nn.Module) -> None:
        self._made: dict[int | None, Any] = {}
        self._read: set[int | None] = set()
        self._net = net

    def note(self, args: Any, made: Any) -> None:
        """After an operation on constants: which of its results have memory of their own."""
        taken = {_storage(t) for t in tensors(args)}
        for tensor in tensors(made):
            key = _storage(tensor)
            if key is not None and key not in taken:
                self._made[key] = tensor.untyped_storage()

    def made(self, tensor: Tensor) -> bool:
        """Whether the pass made the memory of this tensor."""
        return _storage(tensor) in self._made

    def forget(self) -> None:
        """The pass is over."""
        self._made = {}

    def owner(self, tensor: Tensor) -> str:
        """What to call a tensor that was there before the pass."""
        for name, module in self._net.named_modules():
            for own, held in (*module._parameters.items(), *module._buffers.items()):
                if held is not None and _storage(held) == _storage(tensor):
                    mode = " of a module in training mode" * module.training
                    return f"{name}{'.' * bool(name)}{own}{mode}"
        return f"a tensor of shape {tuple(tensor.shape)}"

    def settled(self, tree: Any) -> Any:
        """The same with copies of constants that the network may still write to in this pass."""
        return replaced(tree, self._settle)

    def _settle(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FrameTensor):
            return tensor
        if self.made(tensor):
            return tensor.clone()
        self._read.add(_storage(tensor))
        return tensor

    def owned(self, op: Op) -> Op:
        """An operation of the plan with copies of what was there before the pass.

        The network's weights may change, and a plan shows it as it was.
        """

        def own(tensor: Tensor) -> Tensor:
            return tensor.clone() if _storage(tensor) in self._read else tensor

        held = {f.name: getattr(op, f.name) for f in fields(op)}
        return replace(op, **{k: replaced(v, own) for k, v in held.items() if tensors(v)})


def tensors(tree: Any) -> list[Tensor]:
    """All of them within lists, tuples and dictionaries."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [t for part in tree for t in tensors(part)]
    return [tree] if isinstance(tree, Tensor) else []


def _storage(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a sparse one has none
        return None
