"""The tables of README and documentation are what the tools make of the records: no figure was typed or is out of date."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the tools count nets of timm")

from tools import tables

from involution import records
from involution.studies import markdown
from involution.studies.declared.reading import read

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("tool", ["tables", "front_page", "reproduction", "weights", "family", "search", "faults"])
def test_a_page_is_what_its_tool_makes_of_the_records(tool, tmp_path, monkeypatch):
    pages = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("images", "_build", "*.py"))
    shutil.copy(ROOT / "README.md", tmp_path)
    # Pages name their records relative to the root.
    monkeypatch.chdir(ROOT)
    where = ["--readme", str(tmp_path / "README.md")] if tool == "front_page" else ["--docs", str(pages)]
    monkeypatch.setattr(sys, "argv", [tool, *where])
    importlib.import_module(f"tools.{tool}").main()
    for page in sorted(tmp_path.rglob("*.md")):
        kept = (ROOT / page.relative_to(tmp_path)).read_text(encoding="utf-8")
        assert page.read_text(encoding="utf-8") == kept, f"run python -m tools.{tool}: {page.name} is out of date"


def test_what_a_cell_holds_does_not_break_its_table():
    lines = markdown.table(["", "said"], [["a", "expected x | y,\ngot z"], ["b", 3]], ["---", "--:"])
    assert lines == ["|  | said |", "| --- | --: |", "| a | expected x \\| y, got z |", "| b | 3 |"]


@pytest.mark.parametrize("tool", ["tables", "faults"])
def test_a_page_without_its_second_marker_is_refused_and_left_as_it_is(tool, tmp_path, monkeypatch):
    module = importlib.import_module(f"tools.{tool}")
    page = tmp_path / {"tables": "performance.md", "faults": "bad_input.md"}[tool]
    page.write_text(f"before\n{module.BEGIN}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [tool, "--results", str(tmp_path), "--docs", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"{page.name} must hold the lines '{module.BEGIN}' and '{module.END}'"):
        module.main()
    assert page.read_text(encoding="utf-8") == f"before\n{module.BEGIN}\nafter\n"


def test_the_means_of_classes_of_camvid_are_those_of_its_claims():
    record = records.read(ROOT / "results" / "studies" / "camvid.json")
    groups = tables.camvid_groups(record["results"][0]["judged"]["pixel_share_percent"])
    asked = [
        {name.rpartition(".")[2] for name in claim[key]}
        for claim in read(ROOT / "recipes" / "studies" / "camvid.yaml").claims
        for key in ("metric", "than_metric")
        if len(claim.get(key, ())) > 1
    ]
    assert {frozenset(group) for group in groups} == {frozenset(names) for names in asked}
    (row,) = [line for line in tables.camvid_tables(ROOT / "results/studies/camvid.json") if line.startswith("| tree ")]
    assert row.split(" | ")[1] == "16.6" and row.endswith(") |") and row.count("|") == 7


def test_without_its_study_camvid_has_no_table(tmp_path):
    assert tables.camvid_tables(tmp_path / "camvid.json") == []
