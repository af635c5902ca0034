"""What mmpose needs at import time and a heatmap network never calls.

mmpose 1.2 and 1.3 import two optional packages unconditionally from ``mmpose.models``:

===========================================  ==================================  ================
mmpose module                                imports                             since
===========================================  ==================================  ================
``heads/transformer_heads/edpose_head.py``,  ``mmcv.ops``:                       1.2
``.../deformable_detr_layers.py``            ``MultiScaleDeformableAttention``
``heads/hybrid_heads/rtmo_head.py``          ``mmdet.utils``: ``ConfigType``,    1.3
                                             ``reduce_mean``
===========================================  ==================================  ================

Without mmdet, or with an mmcv without compiled operators, none of mmpose's models can then be
imported. :func:`apply` imports ``mmpose.models`` once with stand-ins for exactly these names. The
stand-ins are visible during that import only, because the rest of mmpose asks for mmdet by
``try: import mmdet`` and must still find it missing. Where the real packages are installed,
nothing is replaced.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

# Modules that mmpose.models imports unconditionally -> the names that it takes from them.
# Names that it asks for within try/except (DeformConv2d) must stay missing.
_NEEDED: dict[str, tuple[str, ...]] = {
    "mmdet.utils": ("ConfigType", "reduce_mean"),
    "mmcv.ops": ("MultiScaleDeformableAttention",),
}
_INSTALL_HINT = {
    "mmdet.utils": "install mmdet 3.x",
    "mmcv.ops": "install an mmcv that was built with its compiled operators",
}
_lock = threading.Lock()


def apply() -> None:
    """Imports ``mmpose.models``, with stand-ins for what is missing.

    Does nothing when ``mmpose.models`` is already imported, and replaces nothing when mmdet and the
    compiled operators of mmcv can be imported. May be called any number of times, by any thread.

    Raises:
        ImportError: mmpose is not installed, or cannot be imported for another reason than the
            names listed above. The stand-ins are removed again in that case too.
    """
    with _lock:
        if "mmpose.models" in sys.modules:
            return
        missing = [name for name in _NEEDED if not _importable(name)]
        with _stand_ins(missing):
            importlib.import_module("mmpose.models")


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def _stand_ins(names: list[str]) -> Iterator[None]:
    """Puts stand-in modules into ``sys.modules`` and takes them out again."""
    added: list[str] = []
    try:
        for name in names:
            parent = name.partition(".")[0]
            if parent not in sys.modules and not _importable(parent):
                package = ModuleType(parent, "Stand-in by skippose.compat.")
                package.__path__ = []  # marks a package
                sys.modules[parent] = package
                added.append(parent)
            sys.modules[name] = _module(name)
            added.append(name)
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _module(name: str) -> ModuleType:
    module = ModuleType(name, "Stand-in by skippose.compat.")
    for attribute in _NEEDED[name]:
        setattr(module, attribute, _placeholder(name, attribute))
    return module


def _placeholder(module: str, name: str) -> type:
    """A class, so that annotations and ``isinstance`` work; calling it raises."""

    def refuse(cls: type, *args: object, **kwargs: object) -> object:
        raise RuntimeError(
            f"{module}.{name} was called, but {module} could not be imported when mmpose.models "
            f"was, so that skippose.compat put a stand-in in its place. To use it, "
            f"{_INSTALL_HINT[module]}."
        )

    return type(name, (), {"__new__": refuse, "__module__": module, "__doc__": "Stand-in."})
