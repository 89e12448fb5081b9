"""The ablations: which nets they train, their table and picture, and the command."""

import json

import pytest
import torch

from involution import Involution2d, records
from involution.commands.main import main
from involution.studies.ablation import family
from involution.studies.ablation import results as ablation
from involution.studies.ablation.run import Run
from involution.studies.ablation.summaries import summaries

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
    monkeypatch.setattr("involution.studies.ablation.results.PARTS", small)
    arguments = ["ablate", "digits", "--epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    folder = tmp_path / "ablate" / "digits-1epochs-seed0"
    assert {path.name for path in folder.iterdir()} == {"nets", "record.json", "table.md", "trends.png"}
    record = records.read(folder / "record.json")
    assert [r["net"] for r in record["results"]] == ["k3-cg8-r4", "k7-cg8-r4"]
    assert [(s["n"], s["interval_percent"]) for s in record["summaries"]] == [(1, None)] * 2
    assert record["settings"]["recipe"]["epochs"] == 1
    for path in (folder / "nets").glob("*.json"):
        kept = json.loads(path.read_text())
        path.write_text(json.dumps({**kept, "test_accuracy_percent": 42.0}))
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("42.00 % of the test images") == 2
    next((folder / "nets").glob("k3*.json")).write_text("{")
    assert main(arguments) == 2
    assert "is damaged (" in capsys.readouterr().err


def test_the_relatives_differ_in_the_layer_alone():
    nets = {name: family.build(arguments, 3, 10) for name, arguments in family.NETS.items()}
    assert set(nets) == set(family.TITLES)
    outside = [{k: v.shape for k, v in net.state_dict().items() if ".conv2." not in k} for net in nets.values()]
    assert all(shapes == outside[0] for shapes in outside)
    for name, net in nets.items():
        layers = [getattr(net, f"layer{stage}")[0].conv2 for stage in range(1, 5)]
        kernels = [layer.kernel_generator for layer in layers if isinstance(layer, Involution2d)]
        assert len(kernels) == (0 if name in ("resnet", "depthwise") else 4), name
        assert all(layer.groups == layer.out_channels // 8 for layer in layers if isinstance(layer, Involution2d))
        if name.startswith("san"):
            assert [phi.key.out_channels for phi in kernels] == [c // 4 for c in ablation.CHANNELS]
        y = net(torch.randn(2, 3, 32, 32))
        y.sum().backward()
        assert y.shape == (2, 10) and all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_means_have_the_interval_of_students_t():
    (one, two) = summaries([result("rednet", 0, 70.0), result("sasa", 0, 60.0), result("sasa", 1, 62.0)])
    assert (one.n, one.mean_percent, one.interval_percent) == (1, 70.0, None)
    # Half of it is 12.706 standard errors, of √2 / √2.
    assert (two.n, two.mean_percent) == (2, 61.0) and two.interval_percent == pytest.approx((48.294, 73.706))
    many = summaries([result("sasa", seed, 60.0 + seed % 2) for seed in range(12)])[0]
    low, high = many.interval_percent
    assert 60 < low < 60.5 < high < 61


def test_the_table_of_relatives_puts_the_best_first_and_times_where_they_are_known():
    results = [result(net, 0, 50.0 + number) for number, net in enumerate(family.NETS)]
    lines = family.markdown(results).splitlines()
    assert "one seed" in lines[0] and len(lines) == 2 + 7
    assert lines[2] == "| SAN, pairwise | 56.00 | 90,000 | 5.00 |"
    times = {net: {"inference_ms": 3.0, "training_ms": 10.0 + n} for n, net in enumerate(family.NETS)}
    assert family.markdown(results, times).splitlines()[2].endswith("| 5.00 | 3.0 | 16.0 |")
    both = [*results, *(result(net, 1, 52.0) for net in family.NETS)]
    assert "| ResNet, 3×3 convolution | 51.00 (38.29 to 63.71) |" in family.markdown(both)
    assert [len(family.figure(found, more).axes) for found, more in ((results, None), (both, times))] == [2, 3]


def test_the_relatives_have_a_folder_of_their_own(tmp_path):
    run = Run.plan("family", "digits", 2, range(2), torch.device("cpu"), None, tmp_path)
    assert run.folder == tmp_path / "ablate" / "family-digits-2epochs-seeds0-1"
    assert run.nets == family.NETS


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nets", "vit"], "unknown set of nets 'vit'; expected one of paper, family"),
        (["svhn"], "unknown data set 'svhn'; expected one of digits"),
        (["--epochs", "0"], "--epochs must be at least 1"),
    ],
)
def test_refusals(flags, words, capsys):
    assert main(["ablate", *flags]) == 2
    assert words in capsys.readouterr().err
