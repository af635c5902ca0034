"""From a network to a plan: one forward pass is recorded, then fused."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from skippose.layers import SkipConv2d, count_macs, gated_pass
from skippose.ops.geometry import autocasts
from skippose.runtime.fuse import fuse
from skippose.runtime.plan import Conv, Plan, with_levels
from skippose.runtime.recorder import CaptureError, Recorder

__all__ = ["CaptureError", "capture"]

_cache: weakref.WeakKeyDictionary[nn.Module, dict[Any, Plan]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def capture(net: nn.Module, frame: Tensor) -> Plan:
    """The plan of a network for frames like this one; plans are shared between streams.

    Weights are folded into it: a network whose weights have changed in place gets another one.

    Args:
        net: a network with gated layers, in evaluation mode.
        frame: (S, C, H, W); S is of no consequence.

    Raises:
        CaptureError: for what has no place in a plan, named.
    """
    key = (tuple(frame.shape[1:]), frame.dtype, frame.device)
    signature = _signature(net)
    with _lock:
        plans = _cache.setdefault(net, {})
        if plans.get("signature") != signature:
            plans.clear()
            plans["signature"] = signature  # type: ignore[assignment]
        if key not in plans:
            plans[key] = _capture(net, frame)
        return plans[key]


def _signature(net: nn.Module) -> tuple[object, ...]:
    """Changes when a weight is replaced or written to, or a layer's gate."""
    tensors = [*net.parameters(), *net.buffers()]
    gates = [
        (id(m.gate), repr(m.gate), m.reference) for m in net.modules() if isinstance(m, SkipConv2d)
    ]
    return (
        tuple((t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors),
        tuple(gates),
    )


def _capture(net: nn.Module, frame: Tensor) -> Plan:
    if autocasts(frame):
        raise CaptureError("autocast is on, and captured networks compute in one precision")
    for name, module in net.named_modules():
        hooks = [h for h in module._forward_hooks.values() if h is not count_macs]
        if hooks or module._forward_pre_hooks:
            raise CaptureError(f"module {name!r} has forward hooks, which a plan would not call")
    recorder = Recorder(net)
    # Outside of inference mode, in which composite operations would not be taken apart.
    with torch.inference_mode(False), torch.no_grad():
        x = frame[:1].detach().clone()
        recorder.begin(x)
        with recorder, gated_pass(recorder):
            output = net(x)
    leaves, tree = pytree.tree_flatten(output)
    outputs = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or id(leaf) not in recorder.ids:
            raise CaptureError(f"an output is no function of the frame: {type(leaf).__name__}")
        outputs.append(recorder.ids[id(leaf)])
    ops = fuse(recorder.ops, recorder.values, outputs)
    ordered = with_levels(ops, recorder.decider)
    decider = [
        i for i, o in enumerate(ordered) if isinstance(o, Conv) and o.key == recorder.decider
    ]
    return Plan(
        values=tuple(recorder.values),
        ops=ordered,
        outputs=tuple(outputs),
        tree=tree,
        costs=tuple(recorder.costs),
        decider=decider[0] if decider else None,
        dtype=frame.dtype,
        device=frame.device,
    )
