"""What skippose adds to mmengine's runner."""

from skippose.engine.hooks import ExactResumeHook, GateVisualizationHook

__all__ = ["ExactResumeHook", "GateVisualizationHook"]
