"""What data modules tell tasks, those of this package and others."""

import json

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from involution.data import (
    DataDescription,
    DescribedImages,
    DigitObjects,
    DigitScenes,
    SegmentationFolders,
    SmallImages,
)
from involution.tasks import ClassificationTask, TrainingError


def test_our_modules_describe_themselves():
    data = SmallImages("digits")
    described = DataDescription(data)
    assert described.class_names == tuple("0123456789") and described.data_config == data.data_config
    scenes = DataDescription(DigitScenes())
    assert scenes.class_names[:2] == ("ground", "0") and scenes.data_config["mean"] == [0.5] * 3
    module = DigitObjects(count=8)
    objects = DataDescription(module)
    assert not objects.lacks_masks and objects.ids_of(10) == tuple(range(1, 11))
    folders = DataDescription(SegmentationFolders("streets", val="later"))
    assert objects.source("val") == {"module": "DigitObjects", "root": None, "part": None}
    assert folders.data.parts["test"] == "later"


def test_a_module_that_lacks_what_it_declares_cannot_be_made():
    class Half(LightningDataModule, DescribedImages):
        class_names = ("a",)

    with pytest.raises(TypeError, match="data_config"):
        Half()


class Plain(LightningDataModule):
    """A user's own, which knows nothing of this package."""

    def train_dataloader(self):
        images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 32, 32)
        return DataLoader(TensorDataset(images, torch.tensor([0, 1, 0, 1])), batch_size=4)

    val_dataloader = train_dataloader


class Named(Plain):
    class_names = ["even", "odd"]
    # Names that mean something else here.
    masks, sets, category_ids = torch.zeros(2), ["train"], 3


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
    for unknown in (DataDescription(Plain()), DataDescription(None)):
        assert unknown.class_names == () and unknown.names_of(3) == ("0", "1", "2") and unknown.ids_of(2) == (1, 2)
        assert unknown.data_config == {} and not unknown.lacks_masks
    task = fit(Plain())
    assert task.trainer.callback_metrics["val_loss"].isfinite()
    task.save_model(tmp_path)
    assert "label_names" not in json.loads((tmp_path / "config.json").read_text())


def test_a_module_that_says_a_part_is_heard(tmp_path):
    task = fit(Named())
    task.save_model(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == ["even", "odd"]
    with pytest.raises(TrainingError, match=r"the data have 2 classes \(even, odd\) and the model 3; set num_"):
        fit(Named(), num_classes=3)
