"""What data modules tell tasks, those of this package and others."""

import json

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from involution.data import DigitObjects, DigitScenes, SmallImages, describe
from involution.data.description import DataDescription
from involution.tasks import ClassificationTask, TrainingError


def test_our_modules_describe_themselves():
    data = SmallImages("digits")
    described = describe(data)
    assert described.class_names == tuple("0123456789") and described.data_config == data.data_config
    assert described.category_ids is described.masks is None and described.images == {}
    scenes = describe(DigitScenes())
    assert scenes.class_names[:2] == ("ground", "0") and scenes.data_config["mean"] == [0.5] * 3
    module = DigitObjects(count=8)
    assert describe(module).masks is True and describe(module).category_ids == tuple(range(1, 11))
    module.setup()
    assert describe(module).images == {"train": 8, "val": 2, "test": 2}


class Plain(LightningDataModule):
    """A user's own, which knows nothing of this package."""

    def train_dataloader(self):
        images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 32, 32)
        return DataLoader(TensorDataset(images, torch.tensor([0, 1, 0, 1])), batch_size=4)

    val_dataloader = train_dataloader


class Named(Plain):
    class_names = ["even", "odd"]


def fit(data, num_classes=2):
    arguments = {"layers": [1, 1, 1, 1], "stem": "small", "channels": [16, 16, 16, 16], "kernel_size": 3}
    task = ClassificationTask("rednet26", num_classes, model_args=arguments)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_model_summary=False, enable_progress_bar=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return task


def test_a_module_that_says_nothing_trains(tmp_path):
    assert describe(Plain()) == describe(None) == DataDescription()
    assert DataDescription().names_of(3) == ("0", "1", "2")
    task = fit(Plain())
    assert task.trainer.callback_metrics["val_loss"].isfinite()
    task.save_model(tmp_path)
    assert "label_names" not in json.loads((tmp_path / "config.json").read_text())


def test_a_module_that_says_a_part_is_heard(tmp_path):
    task = fit(Named())
    task.save_model(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == ["even", "odd"]
    with pytest.raises(TrainingError, match=r"the data have 2 classes \(even, odd, …\) and the model 3; set num_"):
        fit(Named(), num_classes=3)
