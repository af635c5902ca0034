"""Hooks of mmengine's runner."""

from skippose.engine.hooks import bad_case_hook  # noqa: F401  (registers a name)
from skippose.engine.hooks.channels_last_hook import ChannelsLastHook
from skippose.engine.hooks.exact_resume_hook import ExactResumeHook
from skippose.engine.hooks.gate_schedule_hook import GateScheduleHook
from skippose.engine.hooks.gate_visualization_hook import GateVisualizationHook
from skippose.engine.hooks.plain_checkpoint_hook import PlainCheckpointHook

__all__ = [
    "ChannelsLastHook",
    "ExactResumeHook",
    "GateScheduleHook",
    "GateVisualizationHook",
    "PlainCheckpointHook",
]
