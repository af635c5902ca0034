"""Skip-Convolutions for video: networks that compute only what changed.

The core needs torch alone. Where mmpose is installed, importing this package also registers its
backbone, data set, metrics and hooks with mmpose, so that
``custom_imports = dict(imports=['skippose'])`` is all that a config needs.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from skippose.context import clips
from skippose.convert import convert, convert_
from skippose.export import export_step
from skippose.gates import (
    ExactNormGate,
    Gate,
    GumbelGate,
    GumbelNormGate,
    InputNormGate,
    OutputNormGate,
    build_gate,
)
from skippose.layers import SkipConv2d
from skippose.report import Report
from skippose.stream import Stream

__version__ = "0.1.0.dev0"

if find_spec("mmpose") is not None:
    from skippose import compat

    compat.apply()
    from skippose import datasets, engine, evaluation, models  # noqa: F401
    from skippose.video import VideoPose  # noqa: F401

if not TYPE_CHECKING:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> Any:
        """Says what is missing where a name that needs mmpose is asked for without it."""
        if name == "VideoPose":
            raise ModuleNotFoundError(
                "skippose.VideoPose needs mmpose, which is not installed here (make setup installs "
                "it, with what it depends on); skippose.convert and Stream need torch alone",
                name="mmpose",
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ExactNormGate",
    "Gate",
    "GumbelGate",
    "GumbelNormGate",
    "InputNormGate",
    "OutputNormGate",
    "Report",
    "SkipConv2d",
    "Stream",
    "build_gate",
    "clips",
    "convert",
    "convert_",
    "export_step",
]
