import csv
import json
import os
import shutil
import signal

import pytest
import torch
from small_sets import write_mnist

import involution.studies.comparison.run as comparison_run
from involution.commands.main import main
from involution.tasks import callbacks

EPOCHS = 2


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The smallest nets there are.
SMALL = ("digits", "--variant", "published")


def run(out, *arguments):
    return main(["compare", *arguments, "--epochs", str(EPOCHS), "--out", str(out)])


def folder_of(out, name=f"digits-published-{EPOCHS}epochs-seed0"):
    return out / "compare" / name


def figures(folder):
    """Return everything measured but the times."""
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("train_s", "train_cpu_s")} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The results of one whole comparison of the smallest nets."""
    out = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run(out, *SMALL) == 0
    torch.set_num_threads(threads)
    return out


def test_results(tmp_path):
    assert run(tmp_path) == 0
    folder = folder_of(tmp_path, f"digits-fair-{EPOCHS}epochs-seed0")
    assert {path.name for path in folder.iterdir()} == {
        "curves.png", "heatmaps.png", "metrics.csv", "nets", "record.json", "report.html", "summary.png"
    }  # fmt: skip
    rows = figures(folder)
    assert [(row["operator"], row["seed"], row["epoch"]) for row in rows] == [
        (o, "0", str(e)) for o in ("convolution", "involution") for e in (1, 2)
    ]
    record = json.loads((folder / "record.json").read_text())
    convolution, involution = record["results"]
    assert (convolution["params"], involution["params"]) == (56_426, 14_770)
    assert (convolution["spatial_params"], involution["spatial_params"]) == (9 * (32**2 + 64**2), 4_424)
    assert convolution["spatial_macs"] == 9 * (32**2 * 64 + 64**2 * 16)
    assert involution["macs"] < convolution["macs"]
    assert record["table"]["test accuracy"]["convolution"] == convolution["test_accuracy_percent"] > 80
    assert involution["test_accuracy_percent"] > 60
    assert all(
        row["train_s"] > 0 and row["train_cpu_s"] > 0 for result in record["results"] for row in result["history"]
    )
    assert record["settings"]["recipe"]["epochs"] == EPOCHS and record["seed"] == 0
    # Weights and results of finished nets, no state of a training.
    assert sorted(path.suffix for path in (folder / "nets").iterdir()) == [
        ".json",
        ".json",
        ".safetensors",
        ".safetensors",
    ]
    assert f"{convolution['test_accuracy_percent']:.2f} %" in (folder / "report.html").read_text()


def test_finished_nets_are_not_trained_again(finished, monkeypatch, capsys):
    monkeypatch.setattr(comparison_run, "train", lambda *_, **__: pytest.fail("a finished net was trained"))
    before = figures(folder_of(finished))
    (folder_of(finished) / "report.html").unlink()
    assert run(finished, *SMALL) == 0
    printed = capsys.readouterr().out
    assert printed.count("(finished before, ") == 2
    assert (
        f"report: {folder_of(finished) / 'report.html'}" in printed and (folder_of(finished) / "report.html").exists()
    )
    assert "test accuracy" in printed and "21,386" in printed
    assert figures(folder_of(finished)) == before


def test_another_seed_gives_other_figures(finished, tmp_path):
    assert run(tmp_path, *SMALL, "--seed", "1") == 0
    other = figures(folder_of(tmp_path, f"digits-published-{EPOCHS}epochs-seed1"))
    assert not {row["train_loss"] for row in other} & {row["train_loss"] for row in figures(folder_of(finished))}


def test_an_interrupted_comparison_goes_on_where_it_stopped(finished, tmp_path, monkeypatch, capsys):
    def interrupt(self, trainer, module, outputs, batch, index):
        if "involution" in self.title and trainer.current_epoch == 1 and index == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.RunProgressBar, "on_train_batch_end", interrupt)
        assert run(tmp_path, *SMALL) == 130
    folder = folder_of(tmp_path)
    message = capsys.readouterr().err
    assert f"Interrupted with 1 of 2 nets finished, kept in {folder}; the same command goes on from there" in message
    assert message.rstrip().endswith("involution compare: interrupted")
    assert [path.suffix for path in sorted((folder / "nets").iterdir())] == [".json", ".safetensors", ".ckpt"]
    # The convolution net's two epochs and the involution net's first.
    assert len(figures(folder)) == 3 and not (folder / "report.html").exists()

    epochs = []
    start = callbacks.EpochSeed.on_train_epoch_start

    def count(self, trainer, module):
        epochs.append(trainer.current_epoch)
        start(self, trainer, module)

    monkeypatch.setattr(callbacks.EpochSeed, "on_train_epoch_start", count)
    assert run(tmp_path, *SMALL) == 0
    printed = capsys.readouterr().out
    assert "convolution, seed 0" in printed and "(finished before, " in printed
    assert "involution, seed 0: goes on after epoch 1 of 2" in printed
    assert epochs == [1]
    assert figures(folder) == figures(folder_of(finished))
    for ours, whole in zip(
        sorted((folder / "nets").iterdir()), sorted((folder_of(finished) / "nets").iterdir()), strict=True
    ):
        assert ours.name == whole.name
        if ours.suffix == ".safetensors":
            assert ours.read_bytes() == whole.read_bytes()


def strike_in_the_second_epoch(number):
    def strike(self, trainer, *_):
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), number)

    callbacks.RunProgressBar.on_train_batch_end = strike


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_killed_comparison_goes_on(number, finished, tmp_path, copies):
    """A process of its own, in the middle of a training."""
    words = ["compare", *SMALL, "--epochs", EPOCHS, "--out", tmp_path]
    status, said = copies.run(*words, first=(__name__, "strike_in_the_second_epoch", number))
    assert status == (-9 if number == signal.SIGKILL else 128 + 15), said
    assert ("Interrupted with 0 of 2 nets finished" in said) == (number == signal.SIGTERM)
    assert [path.suffix for path in (folder_of(tmp_path) / "nets").iterdir()] == [".ckpt"]
    assert run(tmp_path, *SMALL) == 0
    assert figures(folder_of(tmp_path)) == figures(folder_of(finished))


def test_fresh_trains_again_and_the_same_seed_gives_the_same_figures(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    trained = []
    train = comparison_run.train

    def spy(*arguments, **options):
        trained.append(options["title"].strip())
        return train(*arguments, **options)

    monkeypatch.setattr(comparison_run, "train", spy)
    assert run(tmp_path, *SMALL, "--fresh") == 0
    assert trained == ["convolution, seed 0", "involution, seed 0"]
    assert figures(folder_of(tmp_path)) == figures(folder_of(finished))
    # Times differ, so these are not the old files.
    assert (folder_of(tmp_path) / "metrics.csv").read_text() != (folder_of(finished) / "metrics.csv").read_text()


def test_a_damaged_result_is_named(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = next((folder_of(tmp_path) / "nets").glob("convolution*.json"))
    for content in ('{"operator": "convolution"', "[" * 200_000):
        path.write_text(content)
        assert run(tmp_path, *SMALL) == 2
        message = capsys.readouterr().err
        assert f"{path} is damaged (" in message and "); delete it and run again" in message


def test_a_damaged_state_of_a_training_is_named(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    result = next((folder_of(tmp_path) / "nets").glob("involution*.json"))
    checkpoint = result.with_suffix(".ckpt")
    result.unlink()
    checkpoint.write_bytes(b"")
    assert run(tmp_path, *SMALL) == 2
    message = capsys.readouterr().err
    assert (
        f"{checkpoint} is damaged" in message and "or remove it: the training of this net begins anew then" in message
    )


def test_published_nets_on_other_data_with_repeats(tmp_path, capsys):
    write_mnist(tmp_path / "data")
    arguments = [
        "mnist",
        "--variant",
        "published",
        "--repeats",
        "2",
        "--seed",
        "4",
        "--data-root",
        str(tmp_path / "data"),
    ]
    assert run(tmp_path, *arguments) == 0
    folder = folder_of(tmp_path, f"mnist-published-{EPOCHS}epochs-seeds4-5")
    record = json.loads((folder / "record.json").read_text())
    assert [(r["operator"], r["seed"], r["params"]) for r in record["results"]] == [
        ("convolution", 4, 34_826),
        ("involution", 4, 544),
        ("convolution", 5, 34_826),
        ("involution", 5, 544),
    ]
    printed = capsys.readouterr().out
    # Seed after seed: the first results come before the second seed is trained.
    assert printed.index("MNIST, published nets") < printed.index("report: ") < printed.index("involution, seed 5: ")
    assert "standard deviation over 2 seeds" in printed and "98.97 %" in printed and "88.82 %" in printed
    assert "What is unusual here" in (folder / "report.html").read_text()


def test_all_writes_one_table(tmp_path, monkeypatch, capsys):
    designs = {name: comparison_run.DESIGNS[name] for name in ("digits", "mnist")}
    monkeypatch.setattr("involution.studies.comparison.nets.DESIGNS", designs)
    monkeypatch.setenv("INVOLUTION_DATA", str(tmp_path / "data"))
    write_mnist(tmp_path / "data")
    assert main(["compare", "--all", "--epochs", "1", "--out", str(tmp_path)]) == 0
    path = tmp_path / "compare" / "overview.md"
    assert capsys.readouterr().out.rstrip().endswith(f"table: {path}")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in path.read_text().splitlines()]
    assert [line[:3] for line in lines[2:]] == [
        [title, variant, operator]
        for title in ("handwritten digits", "MNIST")
        for variant in ("published", "fair")
        for operator in ("convolution", "involution")
    ]
    assert lines[6][4] == "98.97 %" and lines[8][4] == "" and lines[7][5] == "544"
    assert len(json.loads((tmp_path / "compare" / "overview.json").read_text())["results"]) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--epoch=3"],
            "unknown option --epoch; expected one of --dataset, --variant, --epochs, --seed, --repeats, --device, "
            "--data-root, --out, --all, --fresh, --open",
        ),
        (["svhn"], "unknown data set 'svhn'; expected one of digits, mnist, fashion_mnist, cifar10"),
        (["--variant", "best"], "unknown variant 'best'; expected one of published, fair"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--epochs", "-3"], "--epochs must be at least 1, got -3"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be from 0 to 4294967295, got -1"),
        (["--device", "gpu"], "unknown device 'gpu'; expected auto, cpu, cuda, cuda:N or mps"),
        (["--device", "xpu"], "unknown device 'xpu'; expected auto, cpu, cuda, cuda:N or mps"),
        (
            ["--device", "cuda:99"],
            f"device cuda:99 was asked for, but PyTorch sees {torch.cuda.device_count() or 'no'} CUDA GPU"
            f"{'s' if torch.cuda.device_count() > 1 else ''} on this machine; use --device cpu or auto",
        ),
        (
            ["mnist", "--all"],
            "--all covers every data set and shows no single report; leave out the data set and --open",
        ),
    ],
)
def test_refusals(arguments, words, tmp_path, capsys):
    assert main(["compare", *arguments, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"involution compare: {words}\n"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    assert run(tmp_path / "runs", *SMALL) == 2
    assert capsys.readouterr().err == (
        f"involution compare: cannot write the results to {folder_of(tmp_path / 'runs')}: Not a directory; "
        "name another folder with --out\n"
    )


def test_a_damaged_data_file_is_refused_in_one_sentence(tmp_path, capsys):
    path = write_mnist(tmp_path / "data") / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    assert run(tmp_path, "mnist", "--data-root", str(tmp_path / "data")) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"involution compare: {path} is truncated or damaged: it has 5,000 bytes, its header")
    assert error.count("\n") == 1


def test_a_word_where_a_number_belongs_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as error:
        main(["compare", "--epochs", "many"])
    assert error.value.code == 2
    assert "epochs" in capsys.readouterr().err
