"""What skippose adds to mmengine's runner."""

from skippose.engine.hooks import GateVisualizationHook

__all__ = ["GateVisualizationHook"]
