"""A gated network as a program for others to compile or to deploy."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skippose.backends.torch_maps.step import PlanStep, State
from skippose.layers.network import require_gated
from skippose.ops.schedule import Schedule
from skippose.plan.capture import capture


class ExportedStep(NamedTuple):
    """What :func:`export_step` makes.

    Attributes:
        program: a ``torch.export.ExportedProgram``. ``program.module()(frame, state)`` gives
            ``(output, state)``; it has no side effect and no branch on what it sees.
        state: before a first frame: (S,) ages and, by layer, what it holds. Where an age is 0 the
            frame is computed in full, whatever the rest of the slot's state is.
    """

    program: Any
    state: tuple[Tensor, State]


def can_export() -> bool:
    """Whether this torch exports without tracing Python's bytecode."""
    return "strict" in inspect.signature(torch.export.export).parameters


def export_step(
    net: nn.Module,
    example: Tensor,
    cut: float | None = None,
    refresh_every: int | None = None,
) -> ExportedStep:
    """One frame of a stream as a function ``(frame, state) -> (output, state)``.

    It equals the step form: every convolution runs in full and its gate selects, so it shows what
    a stream computes and not how it saves time. Weights, gates and thresholds are constants of it.

    On a GPU switch TF32 off for a network with ``reference='previous'``
    (``torch.backends.cudnn.allow_tf32``), as streams do by themselves: a program cannot.

    Args:
        net: a network with gated layers, in evaluation mode.
        example: (S, C, H, W), a frame like those to come; S, size and dtype are fixed by it.
        cut: as for :class:`skippose.Stream`.
        refresh_every: likewise.

    Raises:
        ValueError: for an example of another shape, a network without gated layers or that runs
            none of them, or one that cannot be captured (a
            :class:`skippose.plan.capture.CaptureError`, which names what).
        RuntimeError: if the network is in training mode, or torch is too old to export it.
    """
    if not isinstance(example, Tensor) or example.dim() != 4:
        found = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"an example frame is a tensor (S, C, H, W), got {found}")
    require_gated(net)
    if any(module.training for module in net.modules()):
        raise RuntimeError("the network is in training mode; call net.eval() before exporting")
    if not can_export():
        raise RuntimeError(
            "the step is exported with torch.export.export(strict=False), which torch "
            f"{torch.__version__} does not have; 2.3 does"
        )
    step = PlanStep(capture(net, example), Schedule(refresh_every, cut)).eval()
    state = step.initial_state(example.shape[0])
    with torch.no_grad():
        program = torch.export.export(step, (example.detach().clone(), state), strict=False)
    return ExportedStep(program, state)
