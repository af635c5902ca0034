"""What mmengine's runner needs: hooks and a mixed precision for CPUs."""

from skippose.engine.bfloat16_optim_wrapper import BFloat16OptimWrapper
from skippose.engine.hooks import (
    ChannelsLastHook,
    ExactResumeHook,
    GateScheduleHook,
    GateVisualizationHook,
    PlainCheckpointHook,
)

__all__ = [
    "BFloat16OptimWrapper",
    "ChannelsLastHook",
    "ExactResumeHook",
    "GateScheduleHook",
    "GateVisualizationHook",
    "PlainCheckpointHook",
]
