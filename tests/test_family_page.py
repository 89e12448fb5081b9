"""The page of the relatives: its tables are what the code counts and the records hold, its pictures are there."""

import re
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the nets are timm's")

from benchmarks.family import LAYERS, STUDY
from tools import family as page

from involution import records
from involution.studies.declared.reading import read
from involution.studies.search.evaluate import build

DOCS = Path(__file__).parents[1] / "docs"


def between(text, begin, end):
    return text.partition(begin)[2].partition(end)[0].strip()


def test_the_counts_on_the_page_are_those_of_the_layers():
    text = (DOCS / "family.md").read_text(encoding="utf-8")
    assert between(text, page.COUNTS, page.COUNTS_END) == "\n".join(page.counts()).strip()
    # The formula on the page, C²/r + K²GC/r + K²C per pixel; φ's bias is none.
    macs = 56 * 56 * ((64 * 64 + 49 * 4 * 64) / 4 + 49 * 64) / 1e6
    (row,) = re.findall(r"\| `bottleneck` \| [\d.]+ / ([\d.]+) \|", between(text, page.COUNTS, page.COUNTS_END))
    assert row == f"{macs:.1f}"


def test_pictures_are_there_and_small():
    text = (DOCS / "family.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\(images/(family_\w+\.png)\)", text)
    assert len(names) >= 8
    for name in names:
        assert 2_000 < (DOCS / "images" / name).stat().st_size < 100_000, name


def test_records_become_tables(tmp_path, monkeypatch):
    for folder in ("docs", "results"):
        (tmp_path / folder).mkdir()
    shutil.copy(DOCS / "family.md", tmp_path / "docs")
    monkeypatch.setattr(
        sys, "argv", ["family", "--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs")]
    )
    page.main()
    text = (tmp_path / "docs" / "family.md").read_text(encoding="utf-8")
    assert between(text, page.COSTS, page.COSTS_END) == between(text, page.NETS, page.NETS_END) == page.NOTHING
    shape = {
        "channels": 64,
        "size": 56,
        "batch": 1,
        **{part: {name: {"median_ms": 1.5} for name in LAYERS} for part in ("forward", "backward")},
        **{part: dict.fromkeys(LAYERS, 2.5) for part in ("saved_mib", "peak_mib")},
    }
    nets = {net: {"inference_ms": 3.0, "training_ms": 9.0} for net in ("bottleneck", "sasa", "san_pairwise")}
    records.write("family-cpu-2-threads", {"seed": 0, "results": [shape], "nets": nets}, tmp_path / "results")
    page.main()
    text = (tmp_path / "docs" / "family.md").read_text(encoding="utf-8")
    assert "| `san_pairwise` | 1.50 / 1.50 |" in text and "| `outlook` | 2.5 / 2.5 |" in text
    assert "| sasa | – | – | 0 | – | – | 3.0 | 9.0 |" in text
    trained = [
        {"net": net, "data": "", "seed": seed, "values": {"v": value}, "params": 1200, "macs": 3_400_000}
        for net, *values in (("bottleneck", 62.0, 62.5), ("sasa", 60.0, 61.0))
        for seed, value in enumerate(values)
    ]
    study = {"seed": [0, 1], "metric": ["v"], "results": trained}
    records.write("family", study, tmp_path / "results" / "studies")
    page.main()
    text = (tmp_path / "docs" / "family.md").read_text(encoding="utf-8")
    # Of differences within seeds, -2 and -1.5, by Student's t with one degree of freedom.
    assert "| sasa | 60.50 ± 6.35 % | -1.75 (-4.93 to +1.43) | 2 | 1,200 | 3.40 | 3.0 | 9.0 |" in text
    assert "| bottleneck | 62.25 ± 3.18 % | – | 2 |" in text
    assert "| san_pairwise | – | – | 0 | – | – | 3.0 | 9.0 |" in text and "- accuracies: `" in text


def test_the_small_nets_differ_in_their_spatial_layers_alone():
    plans = {entry.net: entry.plan for entry in read(STUDY).entries()}
    assert len(plans) == 7
    layers = {name: build(plan).layer1[0].conv2 for name, plan in plans.items()}
    assert layers["depthwise"].groups == layers["depthwise"].in_channels and layers["convolution"].kernel_size == (3, 3)
    assert len({type(getattr(layer, "kernel_generator", layer)) for layer in layers.values()}) == 6
    rest = {
        name: sum(p.numel() for key, p in build(plan).named_parameters() if ".conv2." not in key)
        for name, plan in plans.items()
    }
    assert len(set(rest.values())) == 1, rest
