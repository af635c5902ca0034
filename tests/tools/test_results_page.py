"""tools/results_page.py, and the pages that it writes."""

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mmpose")
pytest.importorskip("rich")

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for folder in ("results", "configs")
    for path in sorted((ROOT / folder).rglob("*.md"))
    if "<!-- rows" in path.read_text(encoding="utf-8")
]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "tools/results_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(row: str, clips: str, perturb: str = "none", **figures: float) -> dict:
    found = {"row": row, "perturb": perturb, "clips": clips}
    for metric in ("PCK@0.2", "PCK@0.1"):
        for name in (metric, f"{metric} loss", f"late {metric}", f"late {metric} loss"):
            value = figures.get(name, 0.5)
            found |= {name: value, f"{name} low": value - 0.01, f"{name} high": value + 0.01}
    found |= {"GMACs": 0.05, "first GMACs": 0.2, "gate GMACs": 0.0, "reduction": 4.0}
    return found | {k: v for k, v in figures.items() if k in found}


def write(path: Path, records: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


@pytest.fixture
def page(tool, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    write(
        tmp_path / "curve.csv",
        [
            line("hold/0.2", "all", **{"PCK@0.2": 0.8123}),
            line("hold/0.2", "still", reduction=9.5),
            line("hold/0.2", "all", "shake:3", **{"PCK@0.2": 0.7}),
            line("frozen", "all", GMACs=0.0, reduction=float("inf")),
        ],
    )
    path = tmp_path / "page.md"
    path.write_text("Before.\n\n<!-- rows curve none -->\nOUTDATED\n<!-- end -->\n\nAfter.\n")
    return path


def test_a_table_is_written_between_its_comments(tool, page):
    tool.main([str(page)])
    lines = page.read_text().splitlines()
    assert lines[:3] == ["Before.", "", "<!-- rows curve none -->"]
    assert lines[-3:] == ["<!-- end -->", "", "After."]
    table = [[cell.strip() for cell in text.split("|")[1:-1]] for text in lines[3:-3]]
    assert [row[0] for row in table[2:]] == ["hold/0.2", "frozen"]  # not the disturbed one
    first = dict(zip(table[0], table[2], strict=False))
    assert first["PCK@0.2"].startswith("81.23 [")
    assert (first["reduction"], first["still: reduction"]) == ("4.00x", "9.50x")
    assert "OUTDATED" not in page.read_text()


def test_check_tells_a_page_that_is_out_of_date(tool, page):
    before = page.read_text()
    with pytest.raises(SystemExit, match=r"page\.md"):
        tool.main(["--check", str(page)])
    assert page.read_text() == before
    tool.main([str(page)])
    tool.main(["--check", str(page)])


def test_disturbances_are_named_where_there_are_several(tool, page):
    page.write_text("<!-- rows curve -->\n<!-- end -->\n")
    tool.main([str(page)])
    assert "| hold/0.2, shake:3 |" in page.read_text()


def test_rows_of_networks_trained_together_with_their_gates_carry_a_dagger(tool, page, tmp_path):
    names = ("joint, mean/22", "joint 0.25/33", "joint/0.1", "jointly/1", "learned thresholds/0.25")
    rows = [line(name, "all", perturb) for perturb in ("none", "shake:3") for name in names]
    write(tmp_path / "joint.csv", rows)
    page.write_text("<!-- rows joint -->\n<!-- end -->\n<!-- late joint none -->\n<!-- end -->\n")
    tool.main([str(page)])
    marked = ["joint, mean/22 †", "joint 0.25/33 †", "joint/0.1 †", "jointly/1", names[-1]]
    shaken = ["joint, mean/22, shake:3 †", "joint 0.25/33, shake:3 †", "joint/0.1, shake:3 †"]
    shaken += ["jointly/1, shake:3", "learned thresholds/0.25, shake:3"]
    found = [text.split(" | ")[0][2:] for text in page.read_text().splitlines() if "50.00" in text]
    assert found == [*marked, *shaken, *marked]


def test_accuracy_at_the_ends_of_clips(tool, page):
    page.write_text("<!-- late curve none -->\n<!-- end -->\n")
    tool.main([str(page)])
    lines = page.read_text().splitlines()
    assert lines[1].startswith("| row | PCK@0.2 | PCK@0.2, late | loss@0.2 | loss@0.2, late |")
    assert [text.split(" | ")[0] for text in lines[3:-1]] == ["| hold/0.2", "| frozen"]
    assert "| 81.23 | 50.00 |" in lines[3]


def test_kinds_of_gates_stand_side_by_side(tool, page, tmp_path):
    rows = [
        line("exact, hold/relative", "all", **{"PCK@0.2 loss": 0.031, "gate GMACs": 0.02}),
        line("exact, hold/absolute", "all"),
        line("exact, hold/absolute", "still"),
        line("input, hold/relative", "all", GMACs=0.04),
    ]
    dense = {**line("dense", "all"), "role": "dense"}
    write(tmp_path / "cells.csv", [dense, *({**row, "role": "network"} for row in rows)])
    page.write_text("<!-- grid cells -->\n<!-- end -->\n")
    tool.main([str(page)])
    assert page.read_text().splitlines()[1:-1] == [
        "|  | relative: losses | relative: GMACs | absolute: losses | absolute: GMACs |",
        "| --- | --: | --: | --: | --: |",
        "| exact, hold | 3.10 / 50.00 | 0.0300 + 0.0200 | 50.00 / 50.00 | 0.0500 |",
        "| input, hold | 50.00 / 50.00 | 0.0400 | - | - |",
    ]


def test_no_row_is_an_error(tool, page):
    page.write_text("<!-- rows curve flicker:1 -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="flicker:1"):
        tool.main([str(page)])


def test_budgets(tool, page, tmp_path):
    budget = {"clips": "all", "GMACs": 0.05}
    for metric in ("PCK@0.2", "PCK@0.1"):
        keys = ("first", "second", "first - second", "low", "high")
        values = (0.8, 0.79, 0.01, -0.002, 0.02)
        budget |= {f"{metric} {k}": v for k, v in zip(keys, values, strict=True)}
    write(tmp_path / "curve_budgets.csv", [budget])
    page.write_text("<!-- budgets curve -->\n<!-- end -->\n")
    tool.main([str(page)])
    assert "| 80.00 | 79.00 | +1.00 [-0.2, 2.0] |" in page.read_text()


def test_a_file_as_it_is(tool, page, tmp_path):
    write(tmp_path / "methods.csv", [{"method": "global", "GMACs": "0.0400"}])
    page.write_text("<!-- table methods -->\n<!-- end -->\n")
    tool.main([str(page)])
    assert "| method | GMACs |\n| --- | --: |\n| global | 0.0400 |\n" in page.read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_of_the_repository_are_what_the_files_give(tool, path):
    tool.main(["--check", str(path)])
