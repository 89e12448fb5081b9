import errno
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainings import TINY, refusal

from involution.commands.main import main
from involution.commands.run_callbacks import SaveModel
from involution.commands.termination import Delay
from involution.errors import InvolutionWarning
from involution.tasks import ClassificationTask
from involution.tasks.callbacks import History, RunProgressBar, Snapshot
from involution.tasks.checkpointing import TrainingEnd
from involution.tasks.interruption import InterruptionCheckpoint


class Terminal(io.StringIO):
    """A stream that says it is a terminal, or not."""

    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


def fit(*callbacks, epochs=2):
    images = torch.randn(40, 1, 4, 4)
    loader = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), batch_size=10)
    task = ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), 2)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=list(callbacks), enable_progress_bar=any(isinstance(c, RunProgressBar) for c in callbacks),
    )  # fmt: skip
    trainer.fit(task, loader, loader)
    return trainer


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_bar(is_terminal, monkeypatch, tmp_path):
    stream = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    trainer = fit(RunProgressBar("a net"), Snapshot(tmp_path / "x.ckpt"))
    shown = stream.getvalue()
    if not is_terminal:
        assert "a net" not in shown
        return
    assert "0 %, epoch 0/2" in shown and "50 %, epoch 1/2, test accuracy" in shown
    accuracy = 100 * trainer.callback_metrics["val_accuracy"].item()
    assert f"100 %, epoch 2/2, test accuracy {accuracy:.2f} %" in shown


def test_history_and_snapshot(tmp_path):
    told = []
    history = History(lambda rows: told.append(len(rows)))
    trainer = fit(history, Snapshot(tmp_path / "x.ckpt"), epochs=3)
    assert told == [1, 2, 3] and [row["epoch"] for row in history.rows] == [1, 2, 3]
    last = history.rows[-1]
    assert last["test_loss"] == trainer.callback_metrics["val_loss"].item()
    assert last["train_accuracy"] == trainer.callback_metrics["train_accuracy"].item()
    assert all(row["train_s"] > 0 for row in history.rows)
    # Nothing but the one file, and it holds the history.
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert saved["epoch"] == 2
    restored = History()
    restored.load_state_dict(next(state for name, state in saved["callbacks"].items() if name.startswith("History")))
    assert restored.rows == history.rows


class Saved(nn.Module):
    """A task that writes its net as it is."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 2)

    def save_model(self, folder):
        torch.save(self.model.state_dict(), folder / "model.pt")


def test_a_best_checkpoint_that_is_gone_leaves_the_last_weights(tmp_path):
    task = Saved()
    trainer = SimpleNamespace(is_global_zero=True, checkpoint_callback=SimpleNamespace(best_model_path="gone.ckpt"))
    with pytest.warns(
        InvolutionWarning,
        match=r"no checkpoint at .*gone.ckpt; as there is no best .* gets the weights that the training ended with",
    ):
        SaveModel(tmp_path, TrainingEnd()).on_fit_end(trainer, task)
    assert torch.equal(torch.load(tmp_path / "model" / "model.pt")["weight"], task.model.weight)


def test_a_disk_that_refuses_to_be_tidied_up_hides_no_error(tmp_path, monkeypatch):
    callback = InterruptionCheckpoint(tmp_path / "last.ckpt", Delay())
    (tmp_path / ".last-start.ckpt").write_bytes(b"")

    def refuse(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    trainer = SimpleNamespace(is_global_zero=True, train_dataloader=None, world_size=1)
    callback.on_exception(trainer, nn.Identity(), OSError(errno.EROFS, "what happened"))
    with pytest.raises(OSError, match="Read-only"):
        callback.on_train_end(trainer, nn.Identity())


def test_a_constant_in_the_place_of_a_text_is_kept_as_that_text(tmp_path):
    """Lightning's own: annotated as text, its default is of an enumeration."""
    flags = ["--trainer.max_epochs=1", "--trainer.callbacks=lightning.pytorch.callbacks.Timer"]
    assert main(["fit", *TINY, *flags, f"--run={tmp_path / 'run'}"]) == 0
    kept = tmp_path / "run" / "logs" / "version_0" / "config.yaml"
    assert "interval: step" in kept.read_text()
    assert main(["fit", f"--config={kept}", f"--run={tmp_path / 'again'}"]) == 0


class Odd(Callback):
    """Of a default that no file of a configuration can hold."""

    class Text(str):
        pass

    def __init__(self, text: str = Text("a")) -> None:
        super().__init__()


def test_a_value_that_cannot_be_kept_is_a_sentence(tmp_path, capsys):
    assert main(["fit", *TINY, f"--trainer.callbacks={__name__}.Odd", f"--run={tmp_path}"]) == 2
    words = (
        "the configuration holds 'a' of the kind Text, which no file of it can hold; give that argument as plain text"
    )
    assert refusal(capsys) == f"involution fit: {words}"
