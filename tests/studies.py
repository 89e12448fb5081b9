"""A study of two nets whose trainings are those of `fake_fit`."""

import sys
from pathlib import Path

import pytest
import timm
import yaml

import involution.models  # noqa: F401
from involution.studies.declared import jobs, reading

ROOT = Path(__file__).parent.parent
FAKE = (sys.executable, str(Path(__file__).parent / "fake_fit.py"))

RECIPE = """
model: {class_path: involution.tasks.ClassificationTask, init_args: {model: rednet26, model_args: {kernel_size: 7}}}
data: {class_path: involution.data.SmallImages, init_args: {dataset: digits}}
trainer: {max_epochs: 3}
"""
STUDY = """
title: A study of nothing
metric: val_accuracy
seeds: [0, 1]
runs: RUNS/{name}
nets:
  seven: {recipe: recipe.yaml}
  three: {recipe: recipe.yaml, overrides: {model: {init_args: {model_args: {kernel_size: 3}}}}}
claims:
  - {words: seven is more than three, source: a test, of: seven, than: three}
"""


@pytest.fixture(scope="module", name="model")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    net = timm.create_model("rednet14_eighth", num_classes=10)
    # Small images, so that counting takes no time.
    timm.models.save_for_hf(net, str(folder), safe_serialization=True, data_config={"input_size": (3, 32, 32)})
    return folder


@pytest.fixture(name="study")
def study_of_nothing(tmp_path, model, monkeypatch):
    """Return the file of a study whose trainings are `fake_fit`'s; `journal` lies beside it."""
    for name, value in {"EPOCHS": 3, "EPOCH_S": 0.01, "JOURNAL": tmp_path / "journal", "MODEL": model}.items():
        monkeypatch.setenv(f"FAKE_{name}", str(value))
    monkeypatch.setattr(jobs, "COMMAND", FAKE)
    (tmp_path / "journal").touch()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("RUNS", str(tmp_path / "runs")))
    return file


def journal(study):
    return sorted((study.parent / "journal").read_text().splitlines())


EVERYTHING = sorted(f"{net}-{seed} {epoch}" for net in ("seven", "three") for seed in (0, 1) for epoch in range(3))


def changed(study, **entries):
    content = {**yaml.safe_load(study.read_text()), **entries}
    study.write_text(
        yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
    )
    return reading.read(study)
