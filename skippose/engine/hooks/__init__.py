"""Hooks of mmengine's runner."""

from skippose.engine.hooks.gate_visualization_hook import GateVisualizationHook

__all__ = ["GateVisualizationHook"]
