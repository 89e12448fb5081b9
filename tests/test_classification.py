from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from involution.errors import DivergenceError, TrainingError
from involution.tasks import ClassificationTask


@pytest.fixture
def loader():
    images = torch.randn(60, 1, 4, 4)
    return DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), batch_size=20)


def trainer(epochs=1):
    return Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip


def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def test_it_learns_and_logs_means_over_the_images(loader):
    task = ClassificationTask(model(), 2, optimizer=partial(torch.optim.Adam, lr=0.05))
    run = trainer(30)
    run.fit(task, loader, loader)
    assert run.callback_metrics["train_accuracy"] > 0.95
    images, labels = (torch.cat(parts) for parts in zip(*loader))
    logits = task.model(images)
    assert run.callback_metrics["val_loss"].item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(accuracy)
    (tested,) = run.test(task, loader, verbose=False)
    assert tested["test_accuracy"] == pytest.approx(accuracy)


def test_it_predicts_probabilities(loader):
    task = ClassificationTask(model(), 2)
    probabilities = torch.cat(trainer().predict(task, loader))
    assert probabilities.shape == (60, 2)
    assert torch.allclose(probabilities.sum(1), torch.ones(60))
    assert torch.equal(task.predict_step(loader.dataset.tensors[0], 0), task(loader.dataset.tensors[0]).softmax(1))


def test_the_schedule_is_stepped_after_every_epoch(loader):
    schedule = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2], gamma=0.1)
    task = ClassificationTask(model(), 2, optimizer=partial(torch.optim.SGD, lr=0.5), lr_scheduler=schedule)
    run = trainer(3)
    rates = []
    task.on_train_epoch_start = lambda: rates.append(run.optimizers[0].param_groups[0]["lr"])
    run.fit(task, loader, loader)
    assert rates == pytest.approx([0.5, 0.5, 0.05])


class Overflowing(nn.Module):
    """It trains, and its running statistics are infinite."""

    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, images):
        logits = self.net(images)
        return logits if self.training else logits + torch.tensor(float("inf")) - torch.tensor(float("inf"))


def test_a_net_that_gives_no_numbers_in_evaluation_ends_its_training(loader):
    task, run = ClassificationTask(Overflowing(), 2), trainer()
    with pytest.raises(DivergenceError, match="the validation loss is nan in epoch 0, batch 0: the training diverged"):
        run.fit(task, loader, loader)
    (judged,) = trainer().validate(task, loader, verbose=False)
    assert torch.tensor(judged["val_loss"]).isnan(), "what is judged is reported"


def test_another_loss(loader):
    task = ClassificationTask(model(), 2, loss=nn.CrossEntropyLoss(label_smoothing=0.5))
    images, labels = next(iter(loader))
    run = trainer()
    (logged,) = run.validate(task, DataLoader(TensorDataset(images, labels), 20), verbose=False)
    expected = nn.functional.cross_entropy(task(images), labels, label_smoothing=0.5).item()
    assert logged["val_loss"] == pytest.approx(expected)


class Same(nn.Module):
    """What it is given are the logits."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images.flatten(1) * self.factor


def test_of_labels_that_are_shares_the_largest_is_right():
    classes = torch.arange(4).repeat(2)
    images = 50 * torch.eye(4)[classes].view(8, 1, 2, 2)
    images[0] = images[1]
    loader = DataLoader(TensorDataset(images, 0.9 * torch.eye(4)[classes] + 0.025), 4)
    run = trainer()
    run.fit(ClassificationTask(Same(), 4, optimizer=partial(torch.optim.SGD, lr=0.0)), loader, loader)
    assert run.callback_metrics["train_accuracy"] == run.callback_metrics["val_accuracy"] == 7 / 8


def test_shares_of_other_classes_are_refused(loader):
    shares = DataLoader(TensorDataset(loader.dataset.tensors[0], torch.rand(60, 3)), 20)
    with pytest.raises(TrainingError, match=r"shares of the 2 classes, of shape \(B, 2\), and the data have \(20, 3\)"):
        trainer().fit(ClassificationTask(model(), 2), shares)


def test_labels_that_the_loss_passes_over_are_not_judged():
    images = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]).view(3, 1, 1, 2)
    loader = DataLoader(TensorDataset(images, torch.tensor([0, 1, 7])), 3)
    run = trainer()
    task = ClassificationTask(Same(), 2, loss=nn.CrossEntropyLoss(ignore_index=7))
    run.fit(task, loader, loader)
    assert run.callback_metrics["train_accuracy"] == run.callback_metrics["val_accuracy"] == 1 / 2


def test_images_whose_labels_the_loss_passes_over_weigh_nothing():
    """Neither a batch that has some of them, nor one that has no others, whose mean would be no number."""
    torch.manual_seed(0)
    images, labels = torch.randn(6, 1, 1, 2), torch.tensor([0, 7, 1, 0, 7, 7])
    loader = DataLoader(TensorDataset(images, labels), 2)
    run = trainer()
    task = ClassificationTask(
        Same(), 2, loss=nn.CrossEntropyLoss(ignore_index=7), optimizer=partial(torch.optim.SGD, lr=0.0)
    )
    run.fit(task, loader, loader)
    expected = nn.functional.cross_entropy(images.flatten(1), labels, ignore_index=7).item()
    assert run.callback_metrics["train_loss"].item() == pytest.approx(expected)
    assert run.callback_metrics["val_loss"].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])), nn.CrossEntropyLoss(label_smoothing=0.2)]
)
def test_losses_take_labels_that_are_shares(loss):
    shares = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    loader = DataLoader(TensorDataset(torch.randn(3, 1, 1, 2), shares), 3)
    run = trainer()
    run.fit(ClassificationTask(Same(), 2, loss=loss, optimizer=partial(torch.optim.SGD, lr=0.0)), loader, loader)
    expected = loss(loader.dataset.tensors[0].flatten(1), shares).item()
    assert run.callback_metrics["train_loss"].item() == pytest.approx(expected)


def test_a_batch_norm_with_a_single_value_is_explained():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    loader = DataLoader(TensorDataset(torch.randn(1, 1, 4, 4), torch.tensor([1])))
    with pytest.raises(TrainingError, match="a batch of 1 leaves a batch norm with one value per channel; train with"):
        trainer().fit(ClassificationTask(net, 2), loader)


@pytest.mark.parametrize(
    "task",
    [
        partial(ClassificationTask, class_weights=[1.0, 3.0, 0.5]),
        partial(ClassificationTask, loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]))),
    ],
    ids=["of the task", "of the loss"],
)
def test_with_weights_of_classes_a_loss_is_their_mean(task):
    """Batches of unequal weights, the last one shorter: a mean over images of the batches' means would be another."""
    images, labels = torch.randn(5, 1, 1, 3), torch.tensor([0, 0, 1, 2, 1])
    loader = DataLoader(TensorDataset(images, labels), 2)
    run = trainer()
    task = task(Same(), 3, optimizer=partial(torch.optim.SGD, lr=0.0))
    run.fit(task, loader, loader)
    logits, weights = images.flatten(1), torch.tensor([1.0, 3.0, 0.5])
    expected = nn.functional.cross_entropy(logits, labels, weight=weights).item()
    assert run.callback_metrics["train_loss"].item() == pytest.approx(expected)
    assert run.callback_metrics["val_loss"].item() == pytest.approx(expected)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(accuracy)


def test_checkpoints_fit_with_weights_of_classes_and_without():
    weighted, plain = ClassificationTask(Same(), 2, class_weights=[1, 2]), ClassificationTask(Same(), 2)
    assert weighted.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("weights", "loss", "words"),
    [
        ([1.0], None, "class_weights must be one number for each of the 2 classes, got 1; give them in the order"),
        ([1.0, 0.0], None, "class_weights must be finite numbers above zero, got 0.0; give"),
        ([1.0, -2.0], None, "class_weights must be finite numbers above zero, got -2.0"),
        ([float("inf"), 1.0], None, "class_weights must be finite numbers above zero, got inf"),
        ([float("nan"), 1.0], None, "class_weights must be finite numbers above zero, got nan"),
        ([1.0, 2.0], nn.MultiMarginLoss(), "class_weights are for CrossEntropyLoss and NLLLoss, and the loss is Multi"),
        ([1.0, 2.0], nn.NLLLoss(weight=torch.ones(2)), "the loss NLLLoss has weights of its own, and class_weights"),
    ],
)
def test_weights_of_classes_that_do_not_fit_are_refused(weights, loss, words):
    with pytest.raises(TrainingError, match=words):
        ClassificationTask(Same(), 2, loss=loss, class_weights=weights)
