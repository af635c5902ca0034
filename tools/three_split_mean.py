#!/usr/bin/env python
"""The mean of the metrics over JHMDB's three splits, which is what papers report.

Each split is a test run's metrics file (`tools/test.py ... --out FILE.json`), or a config with its
checkpoint, which is tested first:

    python tools/three_split_mean.py sub1.json sub2.json sub3.json
    python tools/three_split_mean.py --out mean.json \\
        --test configs/skip_hrnet_w32.py      work_dirs/skip_hrnet_w32/epoch_20.pth \\
        --test configs/skip_hrnet_w32_sub2.py work_dirs/skip_hrnet_w32_sub2/epoch_20.pth \\
        --test configs/skip_hrnet_w32_sub3.py work_dirs/skip_hrnet_w32_sub3/epoch_20.pth
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table


def parse_args() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("results", nargs="*", type=Path, help="metrics files of test runs")
    options.add_argument(
        "--test",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "CHECKPOINT"),
        help="test this split; its metrics go to work_dirs/<config's name>/test_metrics.json",
    )
    options.add_argument("--out", type=Path, help="file for the means (.json)")
    options.add_argument(
        "--allow-checkpoint-code", action="store_true", help="of --test: see tools/test.py"
    )
    args = options.parse_args()
    splits = len(args.results) + len(args.test)
    if splits != 3:
        options.error(f"three splits are needed, metrics files and --test together; got {splits}")
    return args


def run_test(config: str, checkpoint: str, *options: str) -> Path:
    """Runs tools/test.py; returns the path of the metrics that it wrote."""
    out = Path("work_dirs") / Path(config).stem / "test_metrics.json"
    tool = Path(__file__).with_name("test.py")
    with tempfile.TemporaryDirectory() as folder:  # where nothing of an earlier run can be read
        found = Path(folder) / out.name
        command = [sys.executable, tool, config, checkpoint, "--out", found, *options]
        subprocess.run(command, check=True)
        text = found.read_text()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    return out


def read(path: Path) -> dict[str, float]:
    """Reads the numbers of a metrics file.

    Raises:
        ValueError: The file holds no JSON object, no metric, or a number that is not finite.
    """
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: a JSON object of metrics is expected, not a {type(content).__name__}"
        )
    numbers = {
        key: float(value)
        for key, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if not numbers:
        raise ValueError(f"{path} holds no metric; its keys are {sorted(content)}")
    bad = {key: value for key, value in numbers.items() if not math.isfinite(value)}
    if bad:
        raise ValueError(f"{path}: not finite: {bad}")
    return numbers


def mean(splits: dict[Path, dict[str, float]]) -> dict[str, float]:
    """The mean of each metric.

    Raises:
        ValueError: The splits do not have the same metrics.
    """
    (first, reference), *others = splits.items()
    for path, metrics in others:
        if metrics.keys() != reference.keys():
            raise ValueError(
                f"{path} and {first} do not hold the same metrics: only one of them has "
                f"{sorted(metrics.keys() ^ reference.keys())}"
            )
    return {key: fmean(metrics[key] for metrics in splits.values()) for key in reference}


def main() -> None:
    args = parse_args()
    allowed = ["--allow-checkpoint-code"] if args.allow_checkpoint_code else []
    paths = [*args.results, *(run_test(*pair, *allowed) for pair in args.test)]
    if len(set(paths)) != len(paths):
        raise SystemExit(f"a split is named twice: {[str(path) for path in paths]}")
    try:
        splits = {path: read(path) for path in paths}
        means = mean(splits)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error

    table = Table("metric", *(f"split {n + 1}" for n in range(len(paths))), "mean")
    for key, value in means.items():
        table.add_row(key, *(f"{metrics[key]:.4f}" for metrics in splits.values()), f"{value:.4f}")
    Console().print(table)
    if args.out is not None:
        args.out.write_text(json.dumps(means, indent=2) + "\n")


if __name__ == "__main__":
    main()
