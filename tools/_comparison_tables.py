"""Tables and pictures of tools/compare.py."""

import argparse
import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from skippose.evaluation.records import SUBSETS
from skippose.visualization.accuracy_curve import Point, draw_curves

CONSOLE = Console()
TITLES = {"all": "All clips", "still": "Still camera", "moving": "Moving camera"}


def curve_of(name: str) -> str:
    """The curve that a row belongs to: what stands before the last "/" of its name."""
    return name.rpartition("/")[0] or name


def budget_lines(found: list[dict[str, Any]], names: list[str]) -> list[str]:
    """The budgets as Markdown."""
    if not found:
        return []
    lines = [
        f"**{names[0]} and {names[1]} at equal budgets**: accuracy in percent, read off the "
        "straight line between neighbouring rows over log(GMACs); in brackets 95% of a bootstrap "
        "over clips.",
        "",
        f"| clips | GMACs | PCK@0.2: {names[0]} | {names[1]} | difference "
        f"| PCK@0.1: {names[0]} | {names[1]} | difference |",
        "|---|" + "--:|" * 7,
    ]
    for line in found:
        text = [line["clips"], f"{line['GMACs']:.4f}"]
        for metric in ("PCK@0.2", "PCK@0.1"):
            a, b, difference, low, high = (
                100 * line[f"{metric} {key}"]
                for key in ("first", "second", "first - second", "low", "high")
            )
            text += [f"{a:.2f}", f"{b:.2f}", f"{difference:+.2f} [{low:.1f}, {high:.1f}]"]
        if line["perturb"] != "none":
            text[0] += f", {line['perturb']}"
        lines.append(f"| {' | '.join(text)} |")
    return [*lines, ""]


def percent(found: dict[str, Any], name: str, interval: bool = False) -> str:
    value = found.get(name)
    if value is None or math.isnan(value):
        return "-"
    text = f"{100 * value:.2f}"
    if interval:
        text += f" [{100 * found[name + ' low']:.1f}, {100 * found[name + ' high']:.1f}]"
    return text


def cells(found: dict[str, Any]) -> dict[str, str]:
    """The columns of the tables on the screen and in Markdown."""
    reduction = found["reduction"]
    return {
        "": found["row"],
        "PCK@0.2": percent(found, "PCK@0.2", True),
        "PCK@0.1": percent(found, "PCK@0.1", True),
        "loss@0.2": percent(found, "PCK@0.2 loss", True),
        "loss@0.1": percent(found, "PCK@0.1 loss", True),
        "13: @0.2": percent(found, "PCK@0.2 13 joints"),
        "@0.1": percent(found, "PCK@0.1 13 joints"),
        "torso: @0.2": percent(found, "tPCK@0.2"),
        "@0.1 ": percent(found, "tPCK@0.1"),
        "13: @0.2 ": percent(found, "tPCK@0.2 13 joints"),
        "@0.1  ": percent(found, "tPCK@0.1 13 joints"),
        "GMACs": f"{found['GMACs']:.4f}",
        "first": f"{found['first GMACs']:.4f}",
        "gates": f"{found['gate GMACs']:.4f}",
        "reduction": f"{reduction:.2f}x" if math.isfinite(reduction) else "all",
    }


ON_SCREEN = (
    "", "PCK@0.2", "PCK@0.1", "loss@0.2", "loss@0.1", "13: @0.2", "torso: @0.2", "GMACs", "gates",
    "reduction",
)  # fmt: skip
NOTES = (
    "PCK in percent, by the box's longer side over 15 joints unless the column says otherwise: "
    "13 are those without neck and belly, torso is the other normalisation; in brackets 95% of a "
    "bootstrap over clips. loss: (dense - row) / (dense - frozen), in percent, paired over clips. "
    "GMACs per frame after a clip's first, gates included; first: those of a first frame; gates: "
    "those that the gates spend."
)


def tables(records: list[dict[str, Any]]) -> Iterable[tuple[str, list[dict[str, str]]]]:
    """Title and lines of every table: one for each perturbation and subset of clips."""
    for perturb in dict.fromkeys(found["perturb"] for found in records):
        for subset in SUBSETS:
            chosen = [r for r in records if (r["perturb"], r["clips"]) == (perturb, subset)]
            if not chosen:
                continue
            title = f"{TITLES[subset]} ({chosen[0]['n_clips']}, {chosen[0]['frames']} frames)"
            if perturb != "none":
                title += f", {perturb}"
            yield title, [cells(found) for found in chosen]


def write_csv(path: Path, records: list[dict[str, Any]]) -> None:
    """Every figure of every record, floats to ten digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        keys = dict.fromkeys(key for found in records for key in found)
        writer = csv.DictWriter(file, list(keys), restval="")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.10g}" if isinstance(v, float) else v for k, v in found.items()}
            for found in records
        )


def write(
    records: list[dict[str, Any]], equal: list[dict[str, Any]], args: argparse.Namespace, how: str
) -> None:
    """The tables and the pictures."""
    write_csv(beside(args.out, ".csv"), records)
    if equal:
        write_csv(beside(args.out, "_budgets.csv"), equal)
    lines = ["```bash", how, "```", "", NOTES, ""]
    for title, body in tables(records):
        table = Table(*(name for name in body[0] if name in ON_SCREEN), title=title)
        for column in table.columns[1:]:
            column.justify = "right"
        for line in body:
            table.add_row(*(text for name, text in line.items() if name in ON_SCREEN))
        (CONSOLE if CONSOLE.is_terminal else Console(width=160)).print(table)
        names = [name.strip() for name in body[0]]
        lines += [f"**{title}**", "", f"| {' | '.join(names)} |"]
        lines.append("|---|" + "--:|" * (len(names) - 1))
        lines += [f"| {' | '.join(line.values())} |" for line in body] + [""]
    lines += budget_lines(equal, args.equal_budgets)
    beside(args.out, ".md").write_text("\n".join(lines), encoding="utf-8")
    for perturb in dict.fromkeys(found["perturb"] for found in records):
        chosen = [r for r in records if r["clips"] == "all" and r["perturb"] == perturb]
        name = "" if perturb == "none" else f"_{perturb.replace(':', '_')}"
        picture(beside(args.out, f"{name}.png"), chosen, perturb)


def beside(out: Path, ending: str) -> Path:
    """A file of the comparison called ``out``, in whose name a dot ends nothing."""
    return out.with_name(out.name + ending)


def picture(path: Path, records: list[dict[str, Any]], perturb: str) -> None:
    """The accuracy over MACs of all rows on all clips."""
    panels = ("PCK@0.2", "PCK@0.1")
    dense = next(r for r in records if r["role"] == "dense")
    frozen = next(r for r in records if r["role"] == "frozen")

    def values(found: dict[str, Any]) -> list[tuple[float, float, float]]:
        # The interval of the paired difference, around the row's own value.
        base = [found[m] - found[f"{m} - dense"] for m in panels]
        return [
            (found[m], b + found[f"{m} - dense low"], b + found[f"{m} - dense high"])
            for m, b in zip(panels, base, strict=True)
        ]

    points = [
        Point(curve_of(r["row"]), r["GMACs"], values(r))
        for r in records
        if r["role"] in ("network", "dense, crop per frame")
    ]
    title = "bars: 95% of the paired difference to dense, over clips"
    draw_curves(
        path,
        panels,
        points,
        [dense[m] for m in panels],
        [frozen[m] for m in panels],
        dense["GMACs"],
        title if perturb == "none" else f"{perturb}; {title}",
    )
