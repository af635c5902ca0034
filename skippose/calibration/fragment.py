"""Calibrated thresholds as a config that inherits from the one that was calibrated."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skippose.gates import NormGate
from skippose.layers import SkipConv2d


def config_fragment(
    base: str, out: Path, layers: Mapping[str, SkipConv2d], scale: str | None, about: str
) -> str:
    """The text of a config: ``base`` with the thresholds that the layers have now.

    Args:
        base: the config file that was calibrated.
        out: where the fragment will lie; ``_base_`` is relative to its folder.
        layers: the gated layers by their names in the estimator.
        scale: what thresholds refer to; None for what the gates say.
        about: its docstring.
    """
    groups: dict[str, dict[str, float]] = {}
    for name, layer in layers.items():
        assert isinstance(layer.gate, NormGate)
        # A learned threshold, in the checkpoint, would win over what is written here.
        settings: dict[str, Any] = layer.gate.norm_settings()
        eps = settings.pop("eps")
        if scale is not None:
            settings["scale"] = scale
        if np.isinf(settings["p"]):
            settings["p"] = "inf"
        indent = 16 * " "
        text = f",\n{indent}".join(f"{key}={_quoted(value)}" for key, value in settings.items())
        groups.setdefault(text, {})[name] = eps
    path = Path(os.path.relpath(base, out.resolve().parent)).as_posix()
    lines = [f'"""{about}"""', "", f'_base_ = "{path}"', ""]
    parts = []
    for n, (settings_text, thresholds) in enumerate(groups.items()):
        variable = "thresholds" if len(groups) == 1 else f"thresholds_{n + 1}"
        lines += [f"{variable} = {{"]
        lines += [f'    "{name}": {eps:.4g},' for name, eps in thresholds.items()]
        lines += ["}"]
        parts.append(
            f"        **{{\n            name: dict(\n                {settings_text},\n"
            f"                eps=eps,\n            )\n"
            f"            for name, eps in {variable}.items()\n        }},"
        )
    lines += ["model = dict(", "    overrides={", *parts, "    }", ")", ""]
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def wrapped(command: str) -> str:
    """A command as lines of a docstring, indented, each but the last ending with a backslash."""
    lines = textwrap.wrap(command, 88, break_long_words=False, break_on_hyphens=False)
    return " \\\\\n".join(("    " if n == 0 else "        ") + x for n, x in enumerate(lines))


def rounded(thresholds: np.ndarray) -> np.ndarray:
    """As a fragment writes them: four digits."""
    return np.array([float(f"{value:.4g}") for value in thresholds])
