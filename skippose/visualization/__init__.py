"""Pictures of what was computed and what was skipped."""

from skippose.visualization.charts import density_bars, density_heat_map, macs_over_time
from skippose.visualization.gate_trace import GateTrace
from skippose.visualization.overlay import (
    cost_map,
    draw_pose,
    gate_on_frame,
    in_image,
    overlay_gate,
    overlay_heat,
)

__all__ = [
    "GateTrace",
    "cost_map",
    "density_bars",
    "density_heat_map",
    "draw_pose",
    "gate_on_frame",
    "in_image",
    "macs_over_time",
    "overlay_gate",
    "overlay_heat",
]
