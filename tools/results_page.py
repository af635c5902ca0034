#!/usr/bin/env python
"""Writes the tables of a page from the files that tools/compare.py wrote.

    python tools/results_page.py results/README.md configs/small/README.md
    python tools/results_page.py --check results/README.md

A page holds two comments for every table; what stands between them is written anew:

    <!-- rows NAME [PERTURB ...] -->      results/NAME.csv, a line for each row
    <!-- late NAME [PERTURB ...] -->      the same over the last quarter of each clip's frames
    <!-- budgets NAME -->                 results/NAME_budgets.csv, two curves at equal budgets
    <!-- grid NAME -->                    rows CELL/KIND over all clips, a column for each KIND
    <!-- table NAME -->                   results/NAME.csv as it is
    <!-- end -->

PERTURB (none, shake:3, ...) chooses among a file's disturbances; all by default. `--check` changes
nothing and fails where a page is not what the files give. A file that is not there yet leaves its
table as it is.

Rows of networks that were trained together with their gates carry a dagger: they were chosen on the
clips they are reported on. A page that shows one says under its own dagger what was seen on others.
"""

import argparse
import csv
import re
import sys
from pathlib import Path
from typing import Any

from _comparison_tables import cells, percent

from skippose.files import NameRefused, plain_name

RESULTS = Path(__file__).parents[1] / "results"
BLOCK = re.compile(
    r"(<!-- (rows|late|budgets|grid|table) (\S+)([^>]*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL
)
ACCURACY = ("PCK@0.2", "PCK@0.1", "loss@0.2", "loss@0.1")
TRAINED_TOGETHER = re.compile(r"joint\b")


def number(text: str) -> Any:
    """A field of a CSV file: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text or None


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: number(text) for key, text in line.items()} for line in csv.DictReader(file)]


def markdown(lines: list[dict[str, str]]) -> str:
    """A table: the first column to the left, all others to the right."""
    heads = list(dict.fromkeys(key for line in lines for key in line))
    body = [[line.get(head, "") for head in heads] for line in lines]
    rows = [heads, ["---", *["--:"] * (len(heads) - 1)], *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def label(record: dict[str, Any], several: bool) -> str:
    """A row's name, its disturbance where a table has several, and the dagger of its choice."""
    name = str(record["row"])
    mark = " †" if TRAINED_TOGETHER.match(name) else ""
    disturbed = f", {record['perturb']}" if several and record["perturb"] != "none" else ""
    return f"{name}{disturbed}{mark}"


def late_table(records: list[dict[str, Any]], disturbed: list[str]) -> str:
    """Accuracy over whole clips and over their last quarter, where drift would show."""
    chosen = [r for r in records if r["clips"] == "all"]
    chosen = [r for r in chosen if not disturbed or r["perturb"] in disturbed]
    if not chosen:
        raise SystemExit(f"no rows under {disturbed}")
    several = len({r["perturb"] for r in chosen}) > 1
    lines = []
    for found in chosen:
        line = {"row": label(found, several)}
        for metric in ("PCK@0.2", "PCK@0.1"):
            line[metric] = percent(found, metric)
            line[f"{metric}, late"] = percent(found, f"late {metric}")
            line[f"loss{metric[3:]}"] = percent(found, f"{metric} loss")
            line[f"loss{metric[3:]}, late"] = percent(found, f"late {metric} loss")
        lines.append(line)
    return markdown(lines)


def rows_table(records: list[dict[str, Any]], disturbed: list[str]) -> str:
    """Accuracy and cost of every row over all clips, and in short by camera."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for record in records:
        if not disturbed or record["perturb"] in disturbed:
            key = (record["perturb"], record["row"])
            found.setdefault(key, {})[record["clips"]] = record
    if not found:
        raise SystemExit(f"no rows under {disturbed}")
    several = len({perturb for perturb, _ in found}) > 1
    lines = []
    for parts in found.values():
        whole = cells(parts["all"])
        line = {"row": label(parts["all"], several)}
        line |= {key: whole[key] for key in (*ACCURACY, "GMACs", "reduction")}
        for camera in ("still", "moving"):
            if camera in parts:
                part = cells(parts[camera])
                losses = [part[key].partition(" ")[0] for key in ("loss@0.2", "loss@0.1")]
                line[f"{camera}: losses"] = " / ".join(losses)
                line[f"{camera}: reduction"] = part["reduction"]
        lines.append(line)
    return markdown(lines)


def grid_table(records: list[dict[str, Any]]) -> str:
    """Losses at PCK@0.2 and @0.1, and GMACs: a line for each cell, two columns for each kind."""
    chosen = [r for r in records if r["clips"] == "all" and r["role"] == "network"]
    split = [(r["row"].rpartition("/"), r) for r in chosen]
    kinds = list(dict.fromkeys(kind for (_, _, kind), _ in split))
    lines: dict[str, dict[str, str]] = {}
    for (cell, _, kind), record in split:
        line = lines.setdefault(
            cell, {"": cell} | {f"{k}: {x}": "-" for k in kinds for x in ("losses", "GMACs")}
        )
        losses = [percent(record, f"{metric} loss") for metric in ("PCK@0.2", "PCK@0.1")]
        layers = record["GMACs"] - record["gate GMACs"]
        line[f"{kind}: losses"] = " / ".join(losses)
        line[f"{kind}: GMACs"] = f"{layers:.4f}"
        if record["gate GMACs"]:
            line[f"{kind}: GMACs"] += f" + {record['gate GMACs']:.4f}"
    return markdown(list(lines.values()))


def budgets_table(records: list[dict[str, Any]]) -> str:
    """Two curves where they cost the same."""
    lines = []
    for record in records:
        line = {"clips": record["clips"], "GMACs": f"{record['GMACs']:.4f}"}
        for metric in ("PCK@0.2", "PCK@0.1"):
            first, second, difference, low, high = (
                100 * record[f"{metric} {key}"]
                for key in ("first", "second", "first - second", "low", "high")
            )
            line |= {
                f"{metric}: first": f"{first:.2f}",
                f"{metric}: second": f"{second:.2f}",
                f"{metric}: difference": f"{difference:+.2f} [{low:.1f}, {high:.1f}]",
            }
        lines.append(line)
    return markdown(lines)


def renewed(page: str) -> str:
    """A page with its tables written anew."""

    def table(match: re.Match[str]) -> str:
        head, kind, name, options, body, end = match.groups()
        plain_name(name, match[1].strip())
        path = RESULTS / (f"{name}_budgets.csv" if kind == "budgets" else f"{name}.csv")
        if path.is_file():
            if kind == "rows":
                body = rows_table(read(path), options.split())
            elif kind == "late":
                body = late_table(read(path), options.split())
            elif kind == "grid":
                body = grid_table(read(path))
            elif kind == "budgets":
                body = budgets_table(read(path))
            else:
                with path.open(newline="", encoding="utf-8") as file:
                    body = markdown(list(csv.DictReader(file)))
        return f"{head}{body}{end}"

    return BLOCK.sub(table, page)


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("pages", nargs="+", type=Path, help="Markdown files")
    options.add_argument("--check", action="store_true", help="fail where a page is out of date")
    args = options.parse_args(arguments)
    stale = []
    for path in args.pages:
        page = path.read_text(encoding="utf-8")
        try:
            text = renewed(page)
        except NameRefused as error:
            sys.exit(f"{path}: {error}")
        if text != page:
            stale.append(str(path))
            if not args.check:
                path.write_text(text, encoding="utf-8")
    if args.check and stale:
        sys.exit(f"not what results/*.csv give: {', '.join(stale)}; run this without --check")


if __name__ == "__main__":
    main()
