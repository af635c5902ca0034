"""What runs a stream: one folder for each backend, whose module ``backend`` registers it."""

from importlib import import_module
from pkgutil import iter_modules

from skippose.backends.base import Backend
from skippose.backends.masks import Mask
from skippose.backends.plan_backend import Counts, PlanBackend
from skippose.backends.registry import BACKENDS, register_backend

for _module in iter_modules(__path__):
    if _module.ispkg:
        import_module(f"{__name__}.{_module.name}.backend")

__all__ = ["BACKENDS", "Backend", "Counts", "Mask", "PlanBackend", "register_backend"]
