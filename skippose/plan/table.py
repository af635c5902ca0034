"""A plan as a table."""

from __future__ import annotations

from skippose.plan.plan import Conv, ConvTranspose, Linear, Op, Plan


def table(plan: Plan) -> str:
    """One line for each operation: level, what it is, of which layer, from and to which maps.

    The last line counts operations, levels and the MACs of a dense frame.
    """
    rows = [("level", "operation", "layer", "from", "to", "MMACs", "block")]
    for op in plan.ops:
        out = plan.values[op.output]
        size = str(out.channels) if out.flat else f"{out.channels}x{out.height}x{out.width}"
        block = f"{op.block[0]}x{op.block[1]}" if isinstance(op, Conv) and op.gated else ""
        rows.append(
            (
                str(op.level),
                op.label,
                str(getattr(op, "key", "")),
                " ".join(f"v{v}" for v in op.inputs),
                f"v{op.output} {size}",
                f"{macs_of(op, plan) / 1e6:.3f}" if macs_of(op, plan) else "",
                block,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    macs = sum(macs_of(op, plan) for op in plan.ops)
    lines.append(
        f"{len(plan.ops)} operations in {len(list(plan.levels()))} levels, "
        f"{macs / 1e9:.4g} GMACs for a dense frame of {plan.frame.height}x{plan.frame.width}"
    )
    return "\n".join(line.rstrip() for line in lines)


def macs_of(op: Op, plan: Plan) -> int:
    """MACs of an operation in a dense frame."""
    x, out = plan.values[op.inputs[0]], plan.values[op.output]
    if isinstance(op, Conv):
        return op.weight.numel() * out.height * out.width
    if isinstance(op, ConvTranspose):
        return op.weight.numel() * x.height * x.width
    return op.weight.numel() if isinstance(op, Linear) else 0
