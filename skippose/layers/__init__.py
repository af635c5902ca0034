"""Network layers: the convolution that skips, and its neighbours that know about clips."""

from skippose.layers.active import active_pass, gated_pass
from skippose.layers.dense import ClipConsistent, count_macs
from skippose.layers.network import gated_layers, module_names
from skippose.layers.skip_conv import SkipConv2d, bind_gate

__all__ = [
    "ClipConsistent",
    "SkipConv2d",
    "active_pass",
    "bind_gate",
    "count_macs",
    "gated_layers",
    "gated_pass",
    "module_names",
]
