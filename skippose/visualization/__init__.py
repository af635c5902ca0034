"""Pictures of what was computed and what was skipped."""

from skippose.visualization.overlay import cost_map, gate_on_frame, overlay_gate, overlay_heat

__all__ = ["cost_map", "gate_on_frame", "overlay_gate", "overlay_heat"]
