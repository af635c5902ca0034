"""The name of mmpose's BadCaseAnalysisHook, where mmpose does not have it yet.

The default hooks of our configs have it, switched off, as mmpose's own have since 1.2; mmpose 1.1
could not build them.
"""

from typing import Any

import mmpose
from mmengine.hooks import Hook
from mmpose.registry import HOOKS


class BadCaseAnalysisHook(Hook):
    """Does nothing, and cannot be switched on.

    Raises:
        RuntimeError: it is switched on.
    """

    def __init__(self, enable: bool = False, **kwargs: Any) -> None:
        if enable:
            raise RuntimeError(
                f"BadCaseAnalysisHook (--badcase) came with mmpose 1.2, found {mmpose.__version__}"
            )


if HOOKS.get("BadCaseAnalysisHook") is None:
    HOOKS.register_module(module=BadCaseAnalysisHook)
