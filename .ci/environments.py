#!/usr/bin/env python3
"""Tests skippose in environments that people have, and writes the README's table of them.

    python3 .ci/environments.py [--keep] [NAME ...]

For each set of requirements/environments/NAME.txt, one after the other: makes a virtual environment
with these packages in a temporary directory, installs skippose into it as the README says, compares
`pip freeze` before and after, builds the headline config through its `custom_imports`, runs the
fast tests, and removes the environment. A set's file says in comments what pip cannot be told:

    # python: 3.10         the interpreter
    # no-deps: PACKAGE     installed last, without its dependencies (mmpose asks for chumpy, which
                           no longer builds)
    # from-source: PACKAGE built against the numpy of the set

The results are kept in requirements/environments/results.csv, from which the table is written.
Exits with 1 if a package was changed or a test failed. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETS = ROOT / "requirements" / "environments"
RESULTS = SETS / "results.csv"
README = ROOT / "README.md"
MARKERS = ("<!-- environments:begin -->", "<!-- environments:end -->")
# Column of the table -> the distributions that provide it, the first one that is installed.
PACKAGES = {
    "torch": ("torch",),
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "mmcv-lite", "onedl-mmcv"),
    "mmpose": ("mmpose",),
    "mmdet": ("mmdet",),
    "numpy": ("numpy",),
}
COLUMNS = ["set", "python", *PACKAGES, "packages", "plugin", "tests", "date"]
# What mmpose's own tools do with a config; skippose comes in by `custom_imports` alone.
PLUGIN = """
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpose.registry import MODELS
import sys
config = Config.fromfile("configs/skip_hrnet_w32.py")
assert "skippose" in sys.modules, "custom_imports did not import skippose"
init_default_scope(config.default_scope)
print(type(MODELS.build(config.model)).__name__)
"""


class Failure(Exception):
    """An environment cannot be made, or nothing can be said of it."""


def directives(path: Path) -> dict[str, list[str]]:
    """The `# key: value` comments of a set."""
    found: dict[str, list[str]] = {"python": [], "no-deps": [], "from-source": []}
    for key, value in re.findall(r"^# ([a-z-]+): (\S+)", path.read_text(), re.MULTILINE):
        if key in found:
            found[key].append(value)
    return found


def interpreter(wanted: list[str]) -> str:
    """The wanted Python, or else this one if skippose supports it."""
    for version in wanted:
        for name in (f"python{version}", *sorted(_pyenv(version))):
            if shutil.which(name) and _runs(name):
                return name
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        print(f"no Python {' '.join(wanted)} found; taking {sys.executable}", flush=True)
        return sys.executable
    raise Failure(f"no Python {' '.join(wanted)} found: install it")


def _pyenv(version: str) -> list[str]:
    """pyenv's interpreters of a version; its shims answer only where the version is chosen."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return [str(path) for path in versions.glob(f"{version}.*/bin/python")]


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0


def call(command: list[object], log: Path, **options: object) -> str:
    """Runs a command, its output in the log; returns its standard output.

    Raises:
        Failure: it failed.
    """
    parts = [str(part) for part in command]
    print("  " + " ".join(parts), flush=True)
    done = subprocess.run(
        parts, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    with log.open("a") as file:
        file.write(f"$ {' '.join(parts)}\n{done.stdout}\n")
    if done.returncode:
        raise Failure("\n".join(done.stdout.splitlines()[-15:]))
    return done.stdout


def freeze(python: Path, log: Path) -> list[str]:
    """The installed packages, skippose aside. Warnings of pip's are no packages."""
    lines = call([python, "-m", "pip", "freeze", "--all"], log).splitlines()
    packages = [line for line in lines if re.match(r"[\w.-]+(==| @ )", line)]
    return [line for line in packages if not line.startswith("skippose")]


def versions(packages: list[str]) -> dict[str, str]:
    """The table's columns of packages."""
    installed = dict(line.split("==", 1) for line in packages if "==" in line)
    found = {}
    for column, names in PACKAGES.items():
        name = next((name for name in names if name in installed), None)
        prefix = f"{name} " if name and name != column else ""
        found[column] = f"{prefix}{installed[name].split('+')[0]}" if name else "–"
    return found


def examine(name: str, work: Path, logs: Path, workers: int) -> dict[str, str]:
    """Makes an environment, installs skippose, tests it. Returns the row of the table."""
    path = SETS / f"{name}.txt"
    if not path.exists():
        known = ", ".join(p.stem for p in sorted(SETS.glob("*.txt")))
        raise Failure(f"there is no {path.relative_to(ROOT)}; there are: {known}")
    log = logs / f"{name}.log"
    log.unlink(missing_ok=True)
    wanted = directives(path)
    call([interpreter(wanted["python"]), "-m", "venv", work], log)
    python = work / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    call([*pip, "-r", path], log)
    for package in wanted["from-source"]:
        call([*pip, "--no-build-isolation", "--no-binary", package, package], log)
    for package in wanted["no-deps"]:
        call([*pip, "--no-deps", package], log)

    before = freeze(python, log)
    call([*pip, "-e", "."], log)
    after = freeze(python, log)
    changed = sorted(set(before) ^ set(after))
    row = dict(set=name, python=_version(python, log), **versions(after))
    row["packages"] = f"changed: {' '.join(changed)}" if changed else "unchanged"

    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    env.pop("PYTHONPATH", None)
    try:
        text = call([python, "-W", "ignore", "-c", PLUGIN], log, env=env)
        row["plugin"] = "works" if "SkipTopdownPoseEstimator" in text else "fails"
    except Failure:
        row["plugin"] = "fails"
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    try:
        text = call([*tests, "-n", workers], log, env=env)
    except Failure as failure:
        text = str(failure)
    last = [line for line in text.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?|xfailed)", last[-1]) if last else []
    row["tests"] = ", ".join(sorted(counts, key=lambda c: c.split()[1])) or "did not run"
    row["date"] = date.today().isoformat()
    print(f"  {row}\n  log: {log}", flush=True)
    return row


def _version(python: Path, log: Path) -> str:
    return call([python, "-c", "import platform; print(platform.python_version())"], log).strip()


def good(row: dict[str, str]) -> bool:
    """Whether nothing was changed and nothing failed."""
    tests = row["tests"]
    return (
        row["packages"] == "unchanged"
        and row["plugin"] == "works"
        and "passed" in tests
        and not re.search("failed|error", tests)
    )


def read_results() -> dict[str, dict[str, str]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {row["set"]: row for row in csv.DictReader(file)}


def write_results(rows: dict[str, dict[str, str]]) -> None:
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))


def table(rows: dict[str, dict[str, str]]) -> str:
    """The Markdown table."""
    head = [COLUMNS, ["---"] * len(COLUMNS)]
    body = [[rows[name][column] for column in COLUMNS] for name in sorted(rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in head + body)


def write_readme(rows: dict[str, dict[str, str]]) -> None:
    """Puts the table between the README's markers, at once.

    Raises:
        Failure: the markers are not there.
    """
    text = README.read_text()
    begin, end = MARKERS
    if text.count(begin) != 1 or text.count(end) != 1:
        raise Failure(f"{README.name} needs the lines {begin} and {end}, once each")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    partial = README.with_suffix(".partial")
    partial.write_text(f"{head}{begin}\n\n{table(rows)}\n\n{end}{tail}")
    partial.replace(README)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="sets; all by default")
    parser.add_argument("--keep", action="store_true", help="do not remove the environments")
    parser.add_argument("--workers", type=int, default=2, help="of pytest")
    parser.add_argument("--table", action="store_true", help="write the README's table alone")
    args = parser.parse_args()
    rows = read_results()
    if args.table:
        write_readme(rows)
        return
    names = args.names or sorted(path.stem for path in SETS.glob("*.txt"))
    temporary = Path(tempfile.mkdtemp(prefix="skippose-environments-"))
    bad = []
    for name in names:
        print(name, flush=True)
        work = temporary / name
        try:
            rows[name] = examine(name, work, temporary, args.workers)
            write_results(rows)
            write_readme(rows)
            if not good(rows[name]):
                bad.append(name)
        except Failure as failure:
            print(f"{name}: {failure}", file=sys.stderr, flush=True)
            bad.append(name)
        finally:
            if not args.keep:
                shutil.rmtree(work, ignore_errors=True)
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}; the logs are in {temporary}")
    shutil.rmtree(temporary) if not args.keep else print(f"kept: {temporary}")


if __name__ == "__main__":
    main()
