"""What a recorded network is given in place of the frame: tensors that say where they come from."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from skippose.plan.errors import CaptureError


class Watch(Protocol):
    """Whoever records the operations of a pass."""

    @property
    def watching(self) -> bool:
        """Whether the network runs right now, and not the recorder's own code."""
        ...

    def refuse(self, what: str, why: str) -> CaptureError:
        """Notes what of the network cannot be captured and why, and gives the error to raise."""
        ...


class FrameTensor(Tensor):
    """A tensor whose content depends on the frame.

    Every operation on one passes its recorder, and what comes out is a ``FrameTensor`` again. What
    would take the content out of torch without an operation, as ``numpy()`` or ``float()``, is
    refused, by name. So whatever is *not* a ``FrameTensor`` does not depend on the frame. Because
    it is a subclass and no patch, other threads and other tensors are not affected.

    After the pass, one that the network put aside behaves like the tensor that it stands for.

    Attributes:
        plain: the tensor that it stands for.
        origin: what made it, for errors.
    """

    plain: Tensor
    origin: str
    _watch: weakref.ref[Watch]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, plain: Tensor, origin: str, watch: Watch) -> FrameTensor:
        """Stands for ``plain``, with its memory, for as long as ``watch`` watches."""
        made: FrameTensor = Tensor._make_subclass(cls, plain)
        made.plain, made.origin = plain, origin
        made._watch = weakref.ref(watch)  # the recorder keeps the tensor
        return made

    def made_by(self, watch: Watch) -> bool:
        """Whether it belongs to this pass, and not to the one of an earlier frame."""
        return self._watch() is watch

    @property
    def watch(self) -> Watch | None:
        """The recorder, while it watches."""
        watch = self._watch()
        return watch if watch is not None and watch.watching else None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Operations that do not pass the recorder."""
        for tensor in frame_tensors((args, kwargs)):
            if tensor.watch is not None:
                raise tensor.watch.refuse(
                    f"operation {func}",
                    "it reads the frame where nothing is recorded, as in another thread",
                )
        return func(*plain(args), **plain(kwargs or {}))

    @property
    def data(self) -> Tensor:
        """As of any tensor: another one with the same memory."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if self.watch is not None:
            raise self.watch.refuse("Tensor.data", "it is replaced in a tensor of the frame")
        self.plain.data = value

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Without the content, so that a forward pass may print its tensors."""
        return f"FrameTensor(shape={tuple(self.shape)}, dtype={self.dtype})"


LEAVES_TORCH = (
    *("item", "tolist", "__bool__", "__int__", "__float__", "__complex__", "__index__"),
    *("numpy", "__array__", "__dlpack__", "apply_", "map_", "map2_"),
    *("data_ptr", "storage", "untyped_storage", "_typed_storage", "share_memory_"),
    *("__deepcopy__", "__reduce_ex__"),
)
"""Methods that read or write a tensor's content without an operation, or give its memory away.

Some do call an operation, but not everywhere: ``torch.tensor`` asks the numbers in a list for
``__float__`` with all recording switched off.
"""


def _method(name: str) -> Callable[..., Any]:
    def method(self: FrameTensor, *args: Any, **kwargs: Any) -> Any:
        if self.watch is not None:
            raise self.watch.refuse(f"Tensor.{name}", "it takes values of the frame out of torch")
        return getattr(self.plain, name)(*args, **kwargs)

    return method


for _name in LEAVES_TORCH:
    setattr(FrameTensor, _name, _method(_name))


def frame_tensors(tree: Any) -> list[FrameTensor]:
    """All of them within lists, tuples and dictionaries."""
    if isinstance(tree, FrameTensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if not isinstance(tree, list | tuple):
        return []
    return [t for part in tree for t in frame_tensors(part)]


def plain(tree: Any) -> Any:
    """The same with the tensors that they stand for."""
    return replaced(tree, lambda t: t.plain if isinstance(t, FrameTensor) else t)


def replaced(tree: Any, by: Callable[[Tensor], Tensor]) -> Any:
    """Lists, tuples and dictionaries with each tensor within replaced.

    Arguments of operations are no more than that, and torch's own function takes much longer.
    """
    if isinstance(tree, Tensor):
        return by(tree)
    if isinstance(tree, dict):
        return {name: replaced(part, by) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([replaced(part, by) for part in tree])
    return tree
