"""Searches whose trainings are no trainings: what their nets are said to reach, and a journal of what was begun."""

import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml

from involution import records
from involution.counting import EXTRAS, MULTIPLY_ADDS, Cost
from involution.errors import CommandError
from involution.recipes import resolve
from involution.studies.search import evaluate, table

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "recipes" / "search" / "digits.yaml"
NOTHING = dict.fromkeys((*MULTIPLY_ADDS, *EXTRAS), 0)


def accuracy_of(recipe):
    """Return an accuracy that a net always has: not a trained one's, but as different for different nets."""
    text = f"{recipe['model']['init_args']['model_args']['blocks']} {recipe['seed_everything'] // 100}"
    return int(sha256(text.encode()).hexdigest()[:4], 16) / 65536


def cost_of(recipe):
    """Return costs that grow with a net, without building it."""
    words = recipe["model"]["init_args"]["model_args"]["blocks"].split()
    channels = sum(int(word) for word in words if word.isdigit())
    return Cost(
        200 * channels * len(words) + ord(words[1][1]), 0, {**NOTHING, "convolution": 7 * channels**2 + len(words)}, ()
    )


def interrupted(recipe, **_):
    """Stands for `evaluate.train`, where Ctrl-C ends it."""
    raise KeyboardInterrupt


def refused(recipe, **_):
    """Stands for `evaluate.train`, where the data sets are not found."""
    raise CommandError("there is no data set here")


class FakeTraining:
    """Stands for `evaluate.train`: waits, writes a line into a journal, and gives what `accuracy_of` says."""

    def __init__(self, journal, seconds=0.0, epochs=3, diverging=lambda recipe: False):
        self.journal, self.seconds, self.epochs, self.diverging = journal, seconds, epochs, diverging

    def __call__(self, recipe, *, data_root=None, on_row=None):
        rows = []
        for epoch in range(1, self.epochs + 1):
            with self.journal.open("a") as file:
                file.write(f"{recipe['model']['init_args']['model_args']['blocks']} epoch {epoch}\n")
            time.sleep(self.seconds)
            if self.diverging(recipe):
                return evaluate.Training(tuple(rows), "the loss is nan in epoch 0, batch 1: the training diverged")
            accuracy = accuracy_of(recipe) * epoch / self.epochs
            rows.append({"epoch": epoch, "test_accuracy": accuracy, "train_s": 0.1, "train_cpu_s": 0.1})
            if on_row:
                on_row(rows)
        return evaluate.Training(tuple(rows))


@pytest.fixture(name="journal")
def journal_of_trainings(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    path.touch()
    monkeypatch.setattr(evaluate, "train", FakeTraining(path))
    monkeypatch.setattr(evaluate, "cost", cost_of)
    return path


def begun(journal):
    return [line for line in journal.read_text().splitlines() if line.endswith("epoch 1")]


@pytest.fixture(name="declared")
def declared_table(tmp_path):
    """Return the file of a small table."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(resolve(DIGITS)))
    content = {
        "title": "A table of nothing",
        "recipe": "recipe.yaml",
        "widths": [8, 16, 32, 64],
        "draw": {"mixed": 20, "convolution": 10, "involution": 10},
        "draw_seed": 0,
        "seeds": [0],
        "repeat": {"every": 4, "seeds": [1, 2]},
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def make(file, runs, seconds=0.0):
    torch.set_num_threads(1)
    evaluate.train.seconds = seconds
    return table.work(table.read(file), runs, say=lambda line: None)


@pytest.fixture(name="recorded")
def recorded_table(journal, declared, tmp_path):
    """Return the record of a table of trainings that were not real."""
    found = table.read(declared)
    rows = make(declared, tmp_path / "runs")
    return records.write("small", table.payload(found, rows), tmp_path / "results")
