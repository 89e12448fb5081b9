"""``involution fit|validate|test``: Lightning's command line with a folder per training that can always be resumed."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..errors import CommandError
from ..files import replaced_files
from ..tasks.callbacks import EpochSeed
from ..tasks.checkpointing import WholeCheckpointIO, WriteErrors
from ..tasks.sharding import is_sharded
from .recipes import RecipeParser

SUBCOMMANDS = ("fit", "validate", "test")


class SaveModel(Callback):
    """Let the task write its best net, in the form that predict reads, by its ``save_model(folder)``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the weights of the best checkpoint; every file is replaced whole or not at all."""
        task: Any = pl_module
        if not trainer.is_global_zero or not hasattr(task, "save_model"):
            return
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        # What is divided among processes has whole weights in its checkpoints alone.
        if is_sharded(task.model) and not (best and hasattr(task, "rebuild") and task.rebuild()):
            return
        if best:
            state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
            task.load_state_dict(state)
        task.model.to("cpu", memory_format=torch.contiguous_format)
        with replaced_files(self.folder) as partial:
            task.save_model(partial)


class _Cli(LightningCLI):
    """Lightning's command line; ``--run`` names the folder of the training."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run", type=Path, default=Path("runs/train"), help="folder of logs, checkpoints and model"
        )

    def before_instantiate_classes(self) -> None:
        """Refuse to start a new training in the folder of another one."""
        config = self.config[self.subcommand]
        run, last = config.run, config.run / "checkpoints" / "last.ckpt"
        if self.subcommand == "fit" and last.exists() and not config.ckpt_path:
            raise CommandError(f"{run} already holds a training; go on with --ckpt_path last, or choose another --run")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer, with loggers and checkpoints in the run's folder where the configuration names none."""
        arguments = self.config_init[self.subcommand]
        run, config = arguments.run, arguments.trainer
        kwargs["default_root_dir"] = str(run)
        if config.get("logger") in (None, True):
            kwargs["logger"] = [CSVLogger(run, name="logs"), TensorBoardLogger(run, name="tensorboard")]
        callbacks = list(config.get("callbacks") or [])
        kwargs["plugins"] = [*_as_list(config.get("plugins")), WholeCheckpointIO()]
        seed = arguments.seed_everything
        if self.subcommand == "fit":
            callbacks.append(EpochSeed(0 if isinstance(seed, bool) or seed is None else seed))
            if kwargs.get("logger") or config.get("logger"):
                callbacks.append(LearningRateMonitor("epoch"))
            if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
                folder = run / "checkpoints"
                monitor = getattr(self.model, "monitor", None)
                if monitor:
                    mode = getattr(self.model, "monitor_mode", "min")
                    callbacks.append(
                        ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
                    )
                # Of its own: save_last would write it only when there is a new best one. After it, to hold its state.
                callbacks.append(ModelCheckpoint(folder, "last", enable_version_counter=False))
            callbacks.append(SaveModel(run / "model"))
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)


def run(subcommand: str, arguments: Sequence[str]) -> None:
    """Run one of Lightning's subcommands.

    Raises:
        InvolutionError: the data, the model or the training refuse; or, where a constructor refused, what the parser
            makes of it, raised from that.
        KeyboardInterrupt: Ctrl-C.
        SystemExit: the usage is wrong (2), or the process was asked to end by SIGTERM (143).
    """
    # What Lightning says of its own uses here, none of which the user can or should change.
    for words in (
        "LightningCLI's args parameter",
        "Checkpoint directory .* exists and is not empty",
        ".*callbacks used to create",
    ):
        warnings.filterwarnings("ignore", words)
    writing = WriteErrors()
    try:
        _Cli(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=RecipeParser,
            parser_kwargs={"prog": "involution"},
            trainer_defaults={"callbacks": writing},
            args=[subcommand, *arguments],
        )
    except Exception as error:
        if writing.refusal is not None:
            raise writing.refusal from error
        raise
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        # Lightning's answer to Ctrl-C is an exit that does not tell what happened.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
