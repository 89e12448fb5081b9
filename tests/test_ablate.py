"""The ablations: which nets they train, their table and picture, and the command."""

import json

import pytest

from involution import records
from involution.commands.main import main
from involution.studies.ablation import results as ablation

NETS = {ablation.net_key(v.arguments) for variants in ablation.PARTS.values() for v in variants}


def result(net, seed=0, accuracy=70.0):
    return ablation.AblationResult(net, seed, accuracy, 1.0, 1.0, 90_000, 5_000_000, [], "2026-01-01")


def test_every_part_varies_one_thing_and_holds_the_default():
    assert len(NETS) == 10
    for variants in ablation.PARTS.values():
        assert sum(v.arguments == ablation.BASE for v in variants) == 1
        assert all(len(v.options) <= 1 for v in variants)
        assert all(60 < v.paper_top1 < 80 for v in variants)


def test_the_table_states_means_and_spread_beside_the_paper():
    results = [result(net, seed, 70 + seed) for net in NETS for seed in (0, 2)]
    lines = ablation.markdown(results).splitlines()
    assert "mean of 2 seeds" in lines[0] and len(lines) == 2 + 12
    assert "| kernel size | K=9 | 71.00 ± 1.41 | 90,000 | 5.00 | K=9 | 77.8 |" in lines
    panels = ablation.figure(results).axes
    assert [axes.get_title(loc="left") for axes in panels] == list(ablation.PARTS)
    # The paper's dashed line and ours, each through 0 at the default.
    assert [line.get_ydata()[2] for line in panels[0].lines[4:6]] == [0, 0]


def test_the_command_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    default = ablation.Variant("K=7", "K=7")
    small = {"kernel size": (ablation.Variant("K=3", "K=3", {"kernel_size": 3}), default)}
    monkeypatch.setattr("involution.studies.ablation.run.PARTS", small)
    monkeypatch.setattr("involution.studies.ablation.results.PARTS", small)
    arguments = ["ablate", "digits", "--epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    folder = tmp_path / "ablate" / "digits-1epochs-seed0"
    assert {path.name for path in folder.iterdir()} == {"nets", "record.json", "table.md", "trends.png"}
    record = records.read(folder / "record.json")
    assert [r["net"] for r in record["results"]] == ["k3-cg8-r4", "k7-cg8-r4"]
    assert record["settings"]["recipe"]["epochs"] == 1
    for path in (folder / "nets").glob("*.json"):
        kept = json.loads(path.read_text())
        path.write_text(json.dumps({**kept, "test_accuracy_percent": 42.0}))
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("42.00 % of the test images") == 2
    next((folder / "nets").glob("k3*.json")).write_text("{")
    assert main(arguments) == 2
    assert "is damaged (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["svhn"], "unknown data set 'svhn'; expected one of digits"), (["--epochs", "0"], "--epochs must be at least 1")],
)
def test_refusals(flags, words, capsys):
    assert main(["ablate", *flags]) == 2
    assert words in capsys.readouterr().err
