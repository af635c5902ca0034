#!/usr/bin/env python
"""Test runs side by side: accuracy beside cost, one row for each metrics file.

python tools/test.py CONFIG CHECKPOINT --out gated.json
python tools/results_table.py dense=dense.json gated=gated.json
"""

import argparse
import json
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Key in a metrics file -> column and format. A column that no file has is left out.
COLUMNS = {
    "PCK": ("PCK@0.2", "{:.2%}"),
    "strict/PCK": ("PCK@0.1", "{:.2%}"),
    "tPCK": ("tPCK@0.2", "{:.2%}"),
    "GMACs": ("GMACs/frame", "{:.4f}"),
    "reduction": ("reduction", "{:.2f}x"),
    "sparsity": ("sparsity", "{:.1%}"),
}


def run_of(argument: str) -> tuple[str, dict[str, float]]:
    """``NAME=FILE.json`` to the name and the metrics in the file."""
    name, separator, file = argument.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=FILE.json, got {argument!r}")
    try:
        return name, json.loads(Path(file).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise argparse.ArgumentTypeError(
            f"{file}: {error}; a test run writes it with --out"
        ) from error


def cell(metrics: dict[str, float], key: str, form: str) -> str:
    value = metrics.get(key)
    if value is None or math.isnan(value):
        return "-"  # nothing was measured
    return form.format(value) if math.isfinite(value) else "all skipped"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", nargs="+", type=run_of, metavar="NAME=FILE.json")
    runs = options.parse_args().runs
    shown = {key: column for key, column in COLUMNS.items() if any(key in m for _, m in runs)}
    table = Table("", *(title for title, _ in shown.values()))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, metrics in runs:
        table.add_row(name, *(cell(metrics, key, form) for key, (_, form) in shown.items()))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
