"""From a network to a plan: a forward pass is recorded, fused, and compared with another one.

What a plan takes for a constant must be one. Four things see to that, none of them alone:

1. *The frame is marked.* The network runs on a :class:`~skippose.plan.frame_tensor.FrameTensor`.
   Whatever an operation makes of one is another one, second outputs included, and each operation on
   one is recorded, or refused by name before it has run. What takes numbers out of torch without an
   operation (``numpy()``, ``tolist()``, ``float()``, pointers) is refused as well. Hence a tensor
   without the mark does not depend on the frame, and neither does Python's control flow.
2. *Writes.* Constants that the pass itself makes may be written to, with constants. Any other write
   would put the frame into a constant, or is state that moves on from frame to frame: refused. So
   are random operations, a stream within the network, and tensors kept from an earlier frame.
3. *A second pass* on noise must record the same operations with the same constants, bit by bit. It
   sees what the mark does not: numbers that Python counts, clocks, random numbers of Python and
   numpy, memory that compiled code reads through a pointer. Parameters and buffers must be the same
   after both. Comparing two passes would not do without the mark: a branch on a value may fall
   alike for both.
4. *The plan*, operation by operation on whole maps, must give what the second pass gave, within
   rounding. That tells of a convolution that was replaced, and of errors of our own.

3 and 4 cost a second pass and a run of the plan, once for each plan and not for each stream.

What is not seen: a number that Python counts and that is the same in both passes but not later, as
one that changes in every hundredth frame; a branch that compiled code takes on values that it reads
through a pointer; and a number that comes from how many slots there are, for a pass has one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from skippose.frames_pass import tell_pass
from skippose.layers import ClipConsistent, SkipConv2d, count_macs, gated_layers, gated_pass
from skippose.layers.active import watching_threads
from skippose.layers.network import check_ran, original
from skippose.layers.skip_conv import why_not_skipped
from skippose.ops.gate_spec import STATED
from skippose.ops.geometry import accumulation_dtype, autocasts
from skippose.plan.check import another_frame, check_same, check_values
from skippose.plan.errors import CaptureError
from skippose.plan.frame_tensor import frame_tensors
from skippose.plan.fuse import fuse
from skippose.plan.plan import Plan, with_levels
from skippose.plan.recorder import Recorder

__all__ = ["CaptureError", "capture"]

SIMPLE = (bool, int, float, complex, str)
KEPT = 2
"""Plans of a network that stay for streams to come; each has weights of its own."""


@dataclass
class _Kept:
    """The plans of one network, and whose turn it is to capture it.

    One after the other, for each would find on the modules what the other's pass has put there. In
    a pass, the network may capture another one.
    """

    plans: dict[Any, Plan] = field(default_factory=dict)
    turn: threading.RLock = field(default_factory=threading.RLock)


_kept: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def capture(net: nn.Module, frame: Tensor) -> Plan:
    """The plan of a network for frames like this one; streams share those of the last two kinds.

    Weights are folded into it: a network that has changed since gets another one. Seen are weights
    that were replaced or written to, modules that were exchanged or added, a ``forward`` that was
    replaced, and settings: what modules print, and their attributes where these are tensors,
    numbers, strings or sequences of them. Not seen are other attributes, what a forward pass reads
    from elsewhere, and what was written through ``.data`` and leaves a tensor's sum as it was.

    Afterwards the network's modules have the numbers among their attributes that they had before,
    and no tensors of a frame that they did not.

    Args:
        net: a network with gated layers, in evaluation mode.
        frame: (S, C, H, W); S is of no consequence.

    Raises:
        CaptureError: for what has no place in a plan, named.
        ValueError: if none of the network's gated layers runs, see
            :func:`skippose.layers.network.check_ran`.
    """
    net = original(net)
    with _lock:
        kept = _kept.setdefault(net, _Kept())
    with kept.turn:
        _check(net, frame)
        tensors = _tensors(net)
        signature = (_settings(net), tuple(tensors.items()))
        key = (signature, tuple(frame.shape[1:]), frame.dtype, frame.device)
        plans = {k: plan for k, plan in kept.plans.items() if k[0] == signature}
        plan = plans.pop(key, None)
        if plan is None:
            plan = _capture(net, frame)
            _check_unchanged(tensors, _tensors(net))
        plans[key] = plan  # the last one used is the last one to go
        kept.plans = dict(list(plans.items())[-KEPT:])
        return plan


def _settings(net: nn.Module) -> tuple[object, ...]:
    """Modules and what they compute, as far as that can be seen, weights apart."""
    found: list[object] = []
    for name, m in net.named_modules():
        code = (type(m), getattr(type(m), "forward", None), _identity(m.__dict__.get("forward")))
        own = tuple(sorted(vars(m).keys() & STATED))  # methods of a gate, replaced on the object
        found.append((name, *code, m.extra_repr(), getattr(m, "reference", None), own))
        if not isinstance(m, SkipConv2d | ClipConsistent):  # which print all that counts
            found.append(_plain_attributes(m))
    return tuple(found)


class _Held(NamedTuple):
    """Which tensor of which module; whether it is a parameter or buffer, or another attribute."""

    module: str
    name: str
    registered: bool


@torch.no_grad()
def _tensors(net: nn.Module) -> dict[_Held, tuple[int, int, str]]:
    """Of each tensor its address, its version, and its sum, as text, in which NaN equals NaN.

    Writing through ``.data``, as averaged weights are swapped in, leaves no other trace than the
    values; hence their sums. On HRNet-W32 all this takes a twentieth of the time that the backend
    and its first frame take.
    """
    held: dict[_Held, Tensor] = {}
    for module, m in net.named_modules():
        for place in (m._parameters, m._buffers, m.__dict__):
            for name, t in place.items():
                if isinstance(t, Tensor) and t.layout == torch.strided:
                    held[_Held(module, name, place is not m.__dict__)] = t
    sums: dict[torch.device, dict[_Held, Tensor]] = {}
    for key, t in held.items():
        if t.is_floating_point():
            # Of halves in float32, in which a small change does not vanish.
            sums.setdefault(t.device, {})[key] = t.sum(dtype=accumulation_dtype(t.dtype))
    values: dict[_Held, float] = {}
    for found in sums.values():  # one wait for each device
        values.update(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
    return {
        key: (t.data_ptr(), -1 if t.is_inference() else t._version, str(values.get(key)))
        for key, t in held.items()
    }


def _check_unchanged(
    before: dict[_Held, tuple[int, int, str]], after: dict[_Held, tuple[int, int, str]]
) -> None:
    """Whether parameters and buffers are what they were; others may have come."""
    for key, state in before.items():
        if key.registered and after.get(key) != state:
            name = f"{key.module}.{key.name}".lstrip(".")
            raise CaptureError(f"the network changes {name} as it runs")


def _plain_attributes(module: nn.Module) -> tuple[tuple[str, object], ...]:
    """A module's numbers and strings, and sequences of them."""
    found: list[tuple[str, object]] = []
    for name, value in module.__dict__.items():
        several = isinstance(value, list | tuple) and bool(value)
        if isinstance(value, SIMPLE) or (several and all(isinstance(v, SIMPLE) for v in value)):
            found.append((name, tuple(value) if several else value))
    return tuple(found)


def _identity(thing: object) -> object:
    """What equals only the same of another one's, without keeping the thing alive."""
    try:
        reference = weakref.ref(thing)
        hash(reference)
    except TypeError:
        return id(thing)
    return reference


def _check(net: nn.Module, frame: Tensor) -> None:
    """What a plan would not call, or not compute in; whether or not there is one already."""
    if autocasts(frame):
        raise CaptureError("autocast is on, and captured networks compute in one precision")
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        raise CaptureError("all modules have forward hooks, which a plan would not call")
    for name, module in net.named_modules():
        hooks = [h for h in module._forward_hooks.values() if h not in (count_macs, tell_pass)]
        if hooks or module._forward_pre_hooks:
            raise CaptureError(f"module {name!r} has forward hooks, which a plan would not call")
        # A forward that was replaced is recorded, whether or not it calls the layer's own.
        if isinstance(module, SkipConv2d) and (reason := why_not_skipped(module)):
            raise CaptureError(f"layer {name!r}: {reason}, which a plan would not call")


def _capture(net: nn.Module, frame: Tensor) -> Plan:
    """Records and compares; see the module."""
    # Outside of inference mode, in which composite operations would not be taken apart.
    with torch.inference_mode(False), torch.no_grad():
        other = another_frame(frame)
        with _as_before(net):
            first = _record(net, frame[:1].detach().clone())
            first.forget()
            second = _record(net, other.clone())
            check_same(first, second)
            plan = _plan(first, frame)
            check_values(plan, second, other)
    return plan


def _record(net: nn.Module, frame: Tensor) -> Recorder:
    """One pass; the network may write to the frame."""
    recorder, elsewhere, failure = Recorder(net), dict[str, None](), None
    x, before = recorder.begin(frame), frame.clone()
    try:
        with recorder, gated_pass(recorder), watching_threads(elsewhere):
            recorder.end(net(x))
    except Exception as error:
        failure = error
    names = {cost.name.partition("#")[0] for cost in recorder.costs if cost.gated}
    if failure is not None and elsewhere and not names:
        with gated_pass(None), watching_threads(elsewhere):
            net(before)  # the first layer that ran elsewhere ended the pass: which others would?
    if failure is None or (elsewhere and not names):
        ran = {layer for name, layer in gated_layers(net).items() if name in names}
        check_ran([net], ran, elsewhere)
    if failure is not None and recorder.refused is None:
        try:
            with gated_pass(None):
                net(before)
        except Exception:  # it fails anyway, and where it was recorded with a better word
            raise failure from None
        recorder.refuse(type(net).__name__, f"it fails where it is recorded: {failure}")
    if recorder.refused is not None:  # also where the network has caught the error
        raise recorder.refused from (None if failure is recorder.refused else failure)
    return recorder


def _plan(recorder: Recorder, frame: Tensor) -> Plan:
    ops = fuse(recorder.ops, recorder.values, recorder.outputs)
    ordered = with_levels([recorder.constants.owned(op) for op in ops], recorder.decider)
    decider = [
        i for i, o in enumerate(ordered) if o.gated is not None and o.key == recorder.decider
    ]
    return Plan(
        values=tuple(recorder.values),
        ops=ordered,
        outputs=recorder.outputs,
        tree=recorder.tree,
        costs=tuple(recorder.costs),
        decider=decider[0] if decider else None,
        dtype=frame.dtype,
        device=frame.device,
    )


@contextmanager
def _as_before(net: nn.Module) -> Iterator[None]:
    """Puts back what two passes on no video leave on modules: tensors of theirs, and counts.

    What a network makes in its first pass for all others stays, as does what it keeps in lists and
    dictionaries of its own.
    """
    found = [
        (now, dict(now))
        for m in net.modules()
        for now in (m.__dict__, m._parameters, m._buffers, m._modules)
    ]
    try:
        yield
    finally:
        for now, before in found:
            for name in before.keys() - now.keys():
                now[name] = before[name]
            for name, value in list(now.items()):
                if name in before and before[name] is value:
                    continue
                if isinstance(value, SIMPLE) or frame_tensors(value):
                    del now[name]
                    if name in before:
                        now[name] = before[name]
