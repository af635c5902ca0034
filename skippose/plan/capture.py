"""From a network to a plan: one forward pass is recorded, then fused."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from skippose.frames_pass import tell_pass
from skippose.layers import count_macs, gated_layers, gated_pass
from skippose.layers.active import watching_threads
from skippose.layers.network import check_ran, original
from skippose.ops.gate_spec import STATED
from skippose.ops.geometry import accumulation_dtype, autocasts
from skippose.plan.errors import CaptureError
from skippose.plan.fuse import fuse
from skippose.plan.plan import Plan, with_levels
from skippose.plan.recorder import Recorder

__all__ = ["CaptureError", "capture"]

_cache: weakref.WeakKeyDictionary[nn.Module, dict[Any, Plan]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
KEPT = 2
"""Plans of a network that stay for streams to come; each has weights of its own."""


def capture(net: nn.Module, frame: Tensor) -> Plan:
    """The plan of a network for frames like this one; streams share those of the last two kinds.

    Weights are folded into it: a network that has changed since gets another one. Seen are weights
    that were replaced or written to, modules that were exchanged or added, and their settings as
    they print them. Not seen are a ``forward`` that was replaced, attributes that a module does not
    print, and what was written through ``.data`` and leaves a tensor's sum as it was.

    Args:
        net: a network with gated layers, in evaluation mode.
        frame: (S, C, H, W); S is of no consequence.

    Raises:
        CaptureError: for what has no place in a plan, named.
        ValueError: if none of the network's gated layers runs, see
            :func:`skippose.layers.network.check_ran`.
    """
    net = original(net)
    _check(net, frame)
    signature = _signature(net)
    key = (signature, tuple(frame.shape[1:]), frame.dtype, frame.device)
    with _lock:
        plan = _cache.get(net, {}).get(key)
    if plan is None:
        # Outside of the lock: this runs code of the network's own, which may capture another one.
        plan = _capture(net, frame)
    with _lock:
        plans = {k: kept for k, kept in _cache.get(net, {}).items() if k[0] == signature}
        plan = plans.pop(key, plan)  # another thread may have been first
        plans[key] = plan  # the last one used is the last one to go
        _cache[net] = dict(list(plans.items())[-KEPT:])
        return plan


@torch.no_grad()
def _signature(net: nn.Module) -> tuple[object, ...]:
    """Changes with what a plan depends on.

    Writing through ``.data``, as averaged weights are swapped in, leaves no other trace than the
    values; hence their sums. On HRNet-W32 all this takes a twentieth of the time that the backend
    and its first frame take.
    """
    modules, tensors = [], []
    sums: dict[torch.device, list[Tensor]] = {}
    for name, m in net.named_modules():
        own = tuple(sorted(vars(m).keys() & STATED))  # methods of a gate, replaced on the object
        modules.append((name, type(m), m.extra_repr(), getattr(m, "reference", None), own))
        for t in (*m._parameters.values(), *m._buffers.values()):
            if t is None:
                continue
            tensors.append((t.data_ptr(), -1 if t.is_inference() else t._version))
            if t.is_floating_point():
                # Of halves in float32, in which a small change does not vanish.
                sums.setdefault(t.device, []).append(t.sum(dtype=accumulation_dtype(t.dtype)))
    # One wait for each device.
    values = [torch.stack(found).tolist() for found in sums.values()]
    return tuple(modules), tuple(tensors), tuple(map(tuple, values))


def _check(net: nn.Module, frame: Tensor) -> None:
    """What a plan would not call, or not compute in; whether or not there is one already."""
    if autocasts(frame):
        raise CaptureError("autocast is on, and captured networks compute in one precision")
    for name, module in net.named_modules():
        hooks = [h for h in module._forward_hooks.values() if h not in (count_macs, tell_pass)]
        if hooks or module._forward_pre_hooks:
            raise CaptureError(f"module {name!r} has forward hooks, which a plan would not call")


def _capture(net: nn.Module, frame: Tensor) -> Plan:
    recorder, elsewhere = Recorder(net), dict[str, None]()
    # Outside of inference mode, in which composite operations would not be taken apart.
    with torch.inference_mode(False), torch.no_grad():
        x = frame[:1].detach().clone()
        recorder.begin(x)
        with recorder, gated_pass(recorder), watching_threads(elsewhere):
            output = net(x)
    names = {cost.name.partition("#")[0] for cost in recorder.costs if cost.gated}
    ran = {layer for name, layer in gated_layers(net).items() if name in names}
    check_ran([net], ran, elsewhere)
    leaves, tree = pytree.tree_flatten(output)
    outputs = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or id(leaf) not in recorder.ids:
            raise CaptureError(f"an output is no function of the frame: {type(leaf).__name__}")
        outputs.append(recorder.ids[id(leaf)])
    ops = fuse(recorder.ops, recorder.values, outputs)
    ordered = with_levels(ops, recorder.decider)
    decider = [
        i for i, o in enumerate(ordered) if o.gated is not None and o.key == recorder.decider
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
