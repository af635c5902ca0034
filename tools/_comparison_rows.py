"""What tools/compare.py compares: its rows, and the command that computes each alone."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from mmengine.config import Config

from skippose.evaluation.clip_bank import check_config, data_identity, file_digest
from skippose.evaluation.comparison import Row, dense_model, frozen_model
from skippose.evaluation.perturbations import Perturbation


def read_config(path: str, changes: dict[str, Any]) -> Config:
    """A config with settings changed."""
    config = Config.fromfile(path)
    try:
        config.merge_from_dict(changes)
    except (KeyError, TypeError) as error:
        raise SystemExit(f"{path} with {changes}: {error}") from error
    return config


def disturbed(dataset: dict[str, Any], perturb: str, play: int | None) -> dict[str, Any]:
    """The config of a data set whose frames are disturbed, or played back and forth."""
    if perturb == "none" and play is None:
        return dataset
    changes: dict[str, Any] = {} if play is None else {"play": play}
    if perturb != "none":
        changes["perturb"] = str(Perturbation.parse(perturb))
    return {**dataset, "type": "PerturbedClipDataset", **changes}


def plan(args: argparse.Namespace) -> list[Row]:
    """All rows, in the order of the tables, without those that would be there twice."""
    rows: list[Row] = []
    digests: dict[str, str] = {}
    for perturb in args.perturb:
        for number in range(0, len(args.pairs), 2):
            config_file, checkpoint = args.pairs[number : number + 2]
            label, separator, path = config_file.partition("=")
            if not separator or Path(config_file).exists():
                label, path = Path(config_file).stem, config_file
            if checkpoint not in digests:
                digests[checkpoint] = file_digest(checkpoint)
            base = read_config(path, args.cfg_options)
            try:
                check_config(base, path)
            except ValueError as error:
                raise SystemExit(str(error)) from error

            def add(
                name: str,
                role: str,
                model: dict[str, Any],
                config: Config,
                settings: dict[str, Any],
                path: str = path,
                checkpoint: str = checkpoint,
                perturb: str = perturb,
            ) -> None:
                dataset = config.test_dataloader.dataset.to_dict()
                if role == "dense, crop per frame":
                    dataset["crop"] = "frame"
                    dataset.pop("stabilise", None)  # a way of the windows that stay put
                dataset = disturbed(dataset, perturb, args.play)
                row = Row(
                    name=name,
                    role=role,
                    model=model,
                    dataset=dataset,
                    data=data_identity(dataset, args.clips),
                    config=path,
                    checkpoint=checkpoint,
                    sha256=digests[checkpoint],
                    variant=settings,
                    perturb="none" if perturb == "none" else str(Perturbation.parse(perturb)),
                    clips=args.clips,
                )
                if row.identity not in {other.identity for other in rows}:
                    rows.append(row)

            model = base.model.to_dict()
            if number == 0 or not args.common_reference:
                dense = dense_model(model)
                suffix = f" ({label})" if len(args.pairs) > 2 and not args.common_reference else ""
                add(f"dense, crop per frame{suffix}", "dense, crop per frame", dense, base, {})
                add(f"dense{suffix}", "dense", dense, base, {})
                add(f"frozen{suffix}", "frozen", frozen_model(model), base, {})
            for variant, settings in args.changes.items():
                config = read_config(path, {**args.cfg_options, **settings})
                network = config.model.to_dict()
                if not gates_of(network):
                    network = dense_model(network)  # the same as the dense row
                name = variant if len(args.pairs) == 2 and variant else label
                if variant and len(args.pairs) > 2:
                    name = f"{label} {variant}"
                add(name, "network", network, config, settings)
    return rows


def gates_of(model: dict[str, Any]) -> bool:
    """Whether a config has any gate."""
    parts = (model, model["backbone"])
    return any(part.get("gate") or part.get("overrides") for part in parts)


def described(row: Row) -> str:
    return row.name if row.perturb == "none" else f"{row.name}, {row.perturb}"


def references(rows: list[Row], row: Row, common: bool) -> tuple[Row, Row]:
    """The dense and the frozen row that a row is compared with."""
    near = [r for r in rows if (r.perturb == row.perturb if common else r.group == row.group)]
    # A network that is its own dense row is listed once, as the dense one.
    return (
        next(r for r in near if r.role == "dense"),
        next(r for r in near if r.role == "frozen"),
    )


def command(row: Row, args: argparse.Namespace) -> str:
    """The command that computes one row, and those that it is compared with."""
    words = ["python", "tools/compare.py", row.config, row.checkpoint]
    name = row.name
    pairs = [args.pairs[n : n + 2] for n in range(0, len(args.pairs), 2)]
    own = next(p for p in pairs if (p[0].endswith(row.config) and p[1] == row.checkpoint))
    if args.common_reference and own is not pairs[0]:
        # Compared with another pair's dense network, which has to be there; names as here.
        words[2:] = [*pairs[0], *own, "--common-reference"]
        name = ""
    words += ["--out", "work_dirs/row"]
    if any(isinstance(value, dict) for value in row.variant.values()):
        # More than a command line should hold.
        words += ["--only-variants", "--variants", str(args.variants)]
        words += ["--rows", variant_of(row, args)]
    elif row.variant:
        words += ["--only-variants", "--variant", name or variant_of(row, args)]
        words += settings_text(row.variant)
    if row.perturb != "none":
        words += ["--perturb", row.perturb]
    threads = None if args.threads == 1 else args.threads
    for option, value in (("--play", args.play), ("--clips", args.clips), ("--threads", threads)):
        words += [] if value is None else [option, str(value)]
    if args.cfg_options:
        words += ["--cfg-options", *settings_text(args.cfg_options)]
    return shlex.join(words)


def variant_of(row: Row, args: argparse.Namespace) -> str:
    """The name of a row's variant, without the pair's."""
    return next(name for name, settings in args.changes.items() if settings == row.variant)


def settings_text(settings: dict[str, Any]) -> list[str]:
    """Settings as a command line takes them; of a group of settings only how many there are."""
    return [
        f"{key}={f'({len(value)} settings)' if isinstance(value, dict) else value}"
        for key, value in settings.items()
    ]
