"""A plan's operations as the library takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from skippose.backends.native.library import ElementKind, Limit, SkpConv, SkpElement
from skippose.backends.native.lower_gate import lower_gate
from skippose.backends.native.lowered import Lowered
from skippose.plan.errors import BackendError
from skippose.plan.op import Op, Value
from skippose.plan.operators.conv import Conv
from skippose.plan.plan import Plan


class LoweredPlan:
    """All operations of a plan; a :class:`skippose.plan.op.NativeBuilder` while it is made.

    Attributes:
        operations: in the plan's order; some are several convolutions.
        changes: values of which the last frame's must be kept: ``previous`` convolves their change.
        added: values that convolutions add to their outputs.

    Raises:
        BackendError: for what the library does not have, named.
    """

    def __init__(self, plan: Plan) -> None:
        self.operations: list[Lowered] = []
        self.changes = {op.inputs[0] for op in plan.gated if op.reference == "previous"}
        self.added: set[int] = set()
        self._plan = plan
        self._decider = None if plan.decider is None else plan.ops[plan.decider]
        for op in plan.ops:
            op.lower(self)

    def value(self, id: int) -> Value:
        return self._plan.values[id]

    def element(self, op: Op, kind: str, **fields: Any) -> None:
        if len(op.inputs) > Limit.most_sources:
            raise BackendError(
                f"{op.label} has {len(op.inputs)} inputs, the native engine's limit is "
                f"{Limit.most_sources}"
            )
        if kind not in ElementKind.__members__:
            raise BackendError(f"the native engine has no operation {op.label!r} ({kind})")
        out, ones = self.value(op.output), (1,) * len(op.inputs)
        lengths = {"channels": out.channels, "rows": out.height, "columns": out.width}
        made = Lowered(SkpElement(), lengths)
        made.write(kind=ElementKind[kind], out=op.output, nsrc=len(op.inputs), src=op.inputs)
        made.write(level=op.level, factor_y=ones, factor_x=ones)
        made.write(**fields)
        made.activate(op.activation)
        self.operations.append(made)

    def convolution(
        self,
        op: Op,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        steps: tuple[int, int] = (1, 1),
        at: tuple[int, int] = (0, 0),
        add: Sequence[int] = (),
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        out, kernel = self.value(op.output), (weight.shape[2], weight.shape[3])
        taps = kernel[0] * kernel[1]
        if taps > Limit.most_taps or len(add) > Limit.most_skips:
            raise BackendError(
                f"layer {op.key}: {taps} taps and {len(add)} additions an output; the native "
                f"engine takes at most {Limit.most_taps} taps and {Limit.most_skips} additions"
            )
        if any(self.value(v).size != out.size for v in add):
            raise BackendError(f"layer {op.key}: an addition of another size")
        size = [-(-(out.size[i] - at[i]) // steps[i]) for i in (0, 1)]
        block = self._plan.tile((size[0], size[1]))
        scale, shift = affine or (None, None)
        channels = self.value(op.inputs[0]).channels
        lengths = {
            "weights": out.channels * (channels // groups) * taps,
            "channels": out.channels,
            "field": channels * taps,
        }
        made = Lowered(SkpConv(), lengths)
        made.write(**{"in": op.inputs[0]}, out=op.output, nskip=len(add), skip=add)
        made.write(kh=kernel[0], kw=kernel[1], sh=stride[0], sw=stride[1])
        made.write(top=padding[0], left=padding[1], dh=dilation[0], dw=dilation[1], groups=groups)
        made.write(oh=size[0], ow=size[1], step_y=steps[0], step_x=steps[1], at_y=at[0], at_x=at[1])
        made.write(block_h=block[0], block_w=block[1], level=op.level, gain=1.0)
        made.write(weight=weight, bias=bias, scale=scale, shift=shift)
        made.write(decides_cut=op is self._decider)
        made.activate(op.activation)
        if op.gated is not None:
            made.conv = cast(Conv, op)
            lower_gate(made.conv, made.struct, made)
        self.added.update(add)
        self.operations.append(made)
