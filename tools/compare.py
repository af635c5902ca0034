#!/usr/bin/env python
"""Accuracy per MAC: networks, dense and gated, on the same clips.

    python tools/compare.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...] --out NAME
    python tools/compare.py CONFIG CHECKPOINT --out NAME \\
        --variant hold/0.2 model.backbone.gate.eps=0.2 \\
        --variant hold/0.3 model.backbone.gate.eps=0.3 \\
        --variant previous/0.1 model.backbone.gate.eps=0.1 model.backbone.reference=previous
    python tools/compare.py CONFIG CHECKPOINT --out DIR --perturb none shake flicker exposure:0.02

Rows. Each pair gives the row that its config describes, one for each variant, and three to compare
with: dense with mmpose's crop of its own for each frame; dense on the config's crop windows; and
the first frame's answer, held. A row is called CONFIG's name, or NAME where the pair is given as
NAME=CONFIG; a variant adds its own name. What stands before the last "/" of a name is a curve: its
rows are joined in the picture. `--variants FILE` takes variants from a .py, .yaml or .json file
with `variants = {name: {key: value}}`.

Perturbations (kind or kind:strength, see skippose/evaluation/perturbations.py) disturb the frames
before they are cropped, and every row, the three to compare with too, is run on what comes out.

Written: NAME.csv (every figure), NAME.md (tables), NAME.png (accuracy over MACs; NAME_shake_3.png
for a disturbance). Finished rows are kept in --cache, by a digest of everything that they depend
on, and are taken from there: an interrupted run is simply started again, and a larger one computes
what is new. One thread is the default: sums in another order may open a gate that is within
rounding of its threshold, and change the last digits. Cameras: JHMDB's names say whether a clip's
camera is still (_nm_) or moving (_cm_); for other clips the motion of the background is measured.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _comparison_rows import command, described, plan, references, settings_text
from _comparison_tables import CONSOLE, beside, curve_of, write
from _options import check_output
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import skippose
from skippose.checkpoints.command_line import add_option, refused_in_a_line
from skippose.evaluation.clip_bank import (
    build_dataset,
    camera_of,
    load_clips,
    set_threads,
    spread,
)
from skippose.evaluation.comparison import (
    Result,
    Row,
    build_network,
    evaluate,
)
from skippose.evaluation.perturbations import Perturbation
from skippose.evaluation.records import SUBSETS, equal_budgets, record

TRUNK = {"neck", "belly"}  # left out of the figures over 13 joints


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "pairs", nargs="+", metavar="CONFIG CHECKPOINT", help="config (or NAME=config), checkpoint"
    )
    options.add_argument(
        "--out", type=Path, required=True, help="path of the tables and pictures, without an ending"
    )
    options.add_argument(
        "--cache",
        type=Path,
        default=Path("work_dirs/compare"),
        help="folder of finished rows (default: work_dirs/compare)",
    )
    options.add_argument(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="a further row of every pair, with settings of its config changed; repeatable",
    )
    options.add_argument("--variants", type=Path, help="file with more of them")
    options.add_argument("--rows", nargs="+", metavar="NAME", help="only these of the variants")
    options.add_argument(
        "--only-variants", action="store_true", help="no row for the configs as they stand"
    )
    options.add_argument(
        "--perturb",
        nargs="+",
        default=["none"],
        metavar="KIND[:STRENGTH]",
        help="none, shake (pixels), flicker (share), exposure (stops a frame), background "
        "(pixels a frame); default: none",
    )
    options.add_argument(
        "--play", type=int, metavar="FRAMES", help="play every clip back and forth to this length"
    )
    options.add_argument("--clips", type=int, help="only so many clips, at even distances")
    options.add_argument(
        "--common-reference",
        action="store_true",
        help="compare all pairs with the first pair's dense network, not each with its own",
    )
    options.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="settings changed in every config, before the variants",
    )
    options.add_argument(
        "--equal-budgets",
        nargs=2,
        metavar="CURVE",
        help="two curves, compared where they cost the same: a table more, and NAME_budgets.csv",
    )
    options.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    options.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add_option(options)
    options.add_argument("--fresh", action="store_true", help="compute finished rows again")
    options.add_argument(
        "--draws", type=int, default=2000, help="bootstrap draws over clips (default: 2000)"
    )
    args = options.parse_args(arguments)
    if len(args.pairs) % 2:
        options.error(f"expected pairs of CONFIG CHECKPOINT, got {len(args.pairs)} names")
    check_output(options, "--out", beside(args.out, ".csv"))
    for text in args.perturb:
        if text != "none":
            try:
                Perturbation.parse(text)
            except ValueError as error:
                options.error(str(error))
    args.changes = {"": {}} if not args.only_variants else {}
    for name, settings in variants(args, options):
        if name in args.changes:
            options.error(f"two variants are called {name!r}")
        args.changes[name] = settings
    if args.rows is not None:
        unknown = [name for name in args.rows if name not in args.changes]
        if unknown:
            options.error(
                f"--rows: no variant is called {unknown[0]!r}; there are {[*args.changes]}"
            )
        args.changes = {n: s for n, s in args.changes.items() if not n or n in args.rows}
    if not args.changes:
        options.error("--only-variants needs --variant or --variants")
    return args


def variants(
    args: argparse.Namespace, options: argparse.ArgumentParser
) -> Iterable[tuple[str, dict[str, Any]]]:
    """All variants by name, from the command line and the file."""
    for name, *settings in args.variant:
        if "=" in name or not settings or not all("=" in text for text in settings):
            options.error(
                f"--variant takes NAME KEY=VALUE ..., got {shlex.join([name, *settings])}"
            )
        parsed = argparse.Namespace()
        DictAction([], "settings")(options, parsed, settings)
        yield name, parsed.settings
    if args.variants is not None:
        content = Config.fromfile(args.variants).to_dict()
        if not isinstance(content.get("variants"), dict):
            options.error(
                f"{args.variants}: expected variants = {{name: {{key: value}}}}, "
                f"found {sorted(content)}"
            )
        yield from content["variants"].items()


def compute(rows: list[Row], args: argparse.Namespace) -> dict[str, Result]:
    """The results of all rows by identity; those that are there already are read."""
    results: dict[str, Result] = {}
    missing: dict[str, list[Row]] = {}
    for row in rows:
        path = args.cache / f"{row.identity}.json"
        if path.is_file() and not args.fresh:
            results[row.identity] = Result.load(path)
        else:
            missing.setdefault(row.data, []).append(row)
    if results:
        CONSOLE.print(f"{len(results)} of {len(rows)} rows are there already, in {args.cache}")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=CONSOLE) as progress:
        for group in missing.values():
            dataset = build_dataset(group[0].dataset)
            reading = progress.add_task(
                "reading clips", total=len(spread(len(dataset), group[0].clips))
            )
            clips = load_clips(dataset, group[0].clips, lambda task=reading: progress.advance(task))
            cameras = [camera_of(clip) for clip in clips]
            frames = sum(map(len, clips))
            for row in group:
                task = progress.add_task(described(row), total=frames)
                network = build_network(
                    row.model, row.checkpoint, args.device, args.allow_checkpoint_code
                )
                result = evaluate(
                    network, clips, cameras, lambda n, task=task: progress.advance(task, n)
                )
                about = dict(
                    name=row.name,
                    role=row.role,
                    config=row.config,
                    sha256=row.sha256,
                    data=row.data,
                    perturb=row.perturb,
                    variant=row.variant,
                    skippose=skippose.__version__,
                )
                result.save(args.cache / f"{row.identity}.json", about)
                results[row.identity] = result
    return results


def figures(
    rows: list[Row], results: dict[str, Result], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One record for each row and subset of clips, with what the row is."""
    limbs: dict[str, list[int] | None] = {}
    records = []
    for row in rows:
        if row.data not in limbs:
            names = build_dataset(row.dataset).metainfo["keypoint_name2id"]
            kept = sorted(n for name, n in names.items() if name not in TRUNK)
            limbs[row.data] = kept if len(kept) < len(names) else None
        three = [results[r.identity] for r in (row, *references(rows, row, args.common_reference))]
        for subset in SUBSETS:
            parts = [result.subset(subset) for result in three]
            if not parts[0].clip_ids:
                continue
            records.append(
                {
                    "row": row.name,
                    "perturb": row.perturb,
                    "clips": subset,
                    **record(*parts, limbs[row.data], args.draws),
                    "role": row.role,
                    "config": row.config,
                    "checkpoint": row.checkpoint,
                    "sha256": row.sha256,
                    "variant": " ".join(settings_text(row.variant)),
                    "data": row.data,
                    "identity": row.identity,
                    "command": command(row, args),
                }
            )
    return records


def budgets(
    rows: list[Row], results: dict[str, Result], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Two curves at equal GMACs, over each subset of clips and under each perturbation."""
    if args.equal_budgets is None:
        return []
    found = []
    for perturb in dict.fromkeys(row.perturb for row in rows):
        here = [row for row in rows if row.role == "network" and row.perturb == perturb]
        curves = [
            [results[row.identity] for row in here if curve_of(row.name) == name]
            for name in args.equal_budgets
        ]
        for subset in SUBSETS:
            parts = [[result.subset(subset) for result in curve] for curve in curves]
            if parts[0][0].clip_ids:
                about = {"perturb": perturb, "clips": subset}
                try:
                    table = equal_budgets(parts[0], parts[1], draws=args.draws)
                except ValueError as error:
                    raise SystemExit(f"--equal-budgets, {subset} clips: {error}") from error
                found += [{**about, **line} for line in table]
    return found


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    set_threads(args.threads)
    # mmengine would tell of every data set and every metric.
    MMLogger.get_instance("compare", log_level=logging.WARNING)
    how = shlex.join(["python", "tools/compare.py", *(arguments or sys.argv[1:])])
    rows = plan(args)
    known = sorted({curve_of(row.name) for row in rows if row.role == "network"})
    for name in args.equal_budgets or ():
        if name not in known:
            raise SystemExit(f"--equal-budgets: no curve is called {name!r}; there are {known}")
    with refused_in_a_line():
        results = compute(rows, args)
    write(figures(rows, results, args), budgets(rows, results, args), args, how)
    CONSOLE.print(f"Tables and pictures are {args.out}.*. To get them again:")
    CONSOLE.print(how, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
