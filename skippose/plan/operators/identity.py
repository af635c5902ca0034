"""What only gives another name to a value."""

from __future__ import annotations

from torch import Tensor

from skippose.plan.op import Arguments, GraphBuilder
from skippose.plan.registry import traces


@traces("alias", "detach", "clone")
def trace_same(graph: GraphBuilder, a: Arguments, out: Tensor) -> None:
    """The value as it is."""
    graph.same(a["self"], out)
