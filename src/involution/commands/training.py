"""``involution fit|validate|test``: Lightning's command line with a folder per training that can always be resumed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from .. import recipes, records
from ..data.description import DataDescription
from ..errors import CommandError, find_refusal, in_one_line
from ..models import checkpoints
from ..runs import RunFolder, takes_seed_of_training
from ..schema import find_seed_problem, shown
from ..tasks.callbacks import EpochSeed, LastValidation
from ..tasks.checkpointing import RunCheckpoint, TrainingEnd, WholeCheckpointIO
from ..tasks.interruption import InterruptionCheckpoint
from ..tasks.watched import PlateauSteps
from .options import kept_for_this_command
from .parsing import reason
from .recipes import RecipeParser
from .run_callbacks import Announcement, EpochTime, KeepEnvironment, SaveModel
from .silence import without_advertisements, without_known_warnings, without_tracebacks_of_writers
from .termination import Delay, Terminated, terminable

# More are slower than one, and thousands take the machine away from everybody.
_PROCESSES_PER_CORE = 4
_OF_NOTEBOOKS = ("ddp_spawn", "ddp_fork", "ddp_notebook")
_INTERVALS = (
    ("check_val_every_n_epoch", "validate after every epoch"),
    ("val_check_interval", "validate at the end of an epoch"),
    ("accumulate_grad_batches", "take a step after every batch"),
)
# Of a number that are looked at, for Python converts no more than 4,300.
_DIGITS = 40


class _Cli(LightningCLI):
    """Lightning's command line; ``--run`` names the folder of the training."""

    def __init__(self, only: str, folders: ExitStack, delay: Delay, end: TrainingEnd, **options: Any) -> None:
        # Keeps the folder of the training for this process, for as long as it is open.
        self.only, self.folders, self.delay, self.end = only, folders, delay, end
        super().__init__(**options)

    def subcommands(self) -> dict[str, set[str]]:
        """Return the one that runs: to make the parsers of Lightning's others as well takes longer than all else here."""
        return {self.only: super().subcommands()[self.only]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # As text, of which a path no longer knows whether it was empty.
        parser.add_argument("--run", type=str, default="runs/train", help="folder of logs, checkpoints and model")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse, beside what the parser refuses, a seed that none can be and a checkpoint that is none."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        if not config.run:
            raise CommandError("run is empty in the configuration; say what it shall be (a dot is this folder)")
        seed = config.seed_everything
        problem = "" if isinstance(seed, bool) else find_seed_problem(seed)
        if problem:
            raise CommandError(f"--seed_everything {problem}")
        _refuse_what_cannot_be_had(config.trainer)
        _refuse_what_would_be_ignored(config)
        config.ckpt_path = _find_checkpoint(self.config.subcommand, Path(config.run), config.ckpt_path)
        path = config.ckpt_path
        is_elsewhere = path in (None, "hpc") or "://" in path or path.startswith("registry")
        if not is_elsewhere and config.get("weights_only") is not False:
            # Lightning is about to look into it for arguments.
            checkpoints.read_training(path)

    def before_instantiate_classes(self) -> None:
        """Let the data have the training's seed, take the folder, and refuse to start a training in that of another one."""
        config = self.config[self.subcommand]
        data = config.get("data")
        if data is not None and takes_seed_of_training(data):
            # In the configuration that is kept, too: the order of the images is the same wherever it is taken.
            data.init_args.seed = _seed_of(config)
        if self.subcommand != "fit":
            return
        run = Path(config.run)
        if _is_first_process():
            self.folders.enter_context(kept_for_this_command(run))
        if not config.ckpt_path and not config.trainer.fast_dev_run:
            _refuse_to_replace_another(run)

    def instantiate_classes(self) -> None:
        """Make what the configuration says; what a constructor refuses is a sentence of its own."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise find_refusal(error) or CommandError(in_one_line(reason(str(error)))) from error
        # The tasks do so in their setup, too, which is after the data have read every image.
        check_data = getattr(self.model, "check_data", None)
        if check_data is not None:
            check_data(DataDescription(self.datamodule))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer, with loggers and checkpoints in the run's folder where the configuration names none."""
        arguments = self.config_init[self.subcommand]
        run, config = Path(arguments.run), arguments.trainer
        kwargs["default_root_dir"] = str(run)
        loggers: list[CSVLogger | TensorBoardLogger] = []
        if config.get("logger") in (None, True):
            loggers = [CSVLogger(run, name="logs"), TensorBoardLogger(run, name="tensorboard")]
            kwargs["logger"] = loggers
        callbacks = _as_list(config.get("callbacks"))
        if config.get("enable_model_summary") is None:
            # Its table has a column of operations, of which none are counted.
            kwargs["enable_model_summary"] = False
        kwargs["plugins"] = [*_as_list(config.get("plugins")), WholeCheckpointIO()]
        try:
            if self.subcommand == "fit":
                if config.get("max_time") is not None and not any(isinstance(one, Timer) for one in callbacks):
                    # Before LastValidation, which looks whether it asked to stop; Lightning would put it at the end.
                    callbacks.append(Timer(config.max_time))
                    kwargs["max_time"] = None
                has_logger = bool(kwargs.get("logger") or config.get("logger"))
                callbacks = self._callbacks(run, callbacks, has_logger)
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            words = in_one_line(reason(str(error)), 250).rstrip(".!")
            raise find_refusal(error) or CommandError(
                f"the trainer cannot be made: {words}; correct what --trainer says, or leave it out"
            ) from error
        if self.subcommand == "fit" and _is_first_process():
            self.folders.enter_context(_without_logs_of_nothing(trainer, loggers))
        return trainer

    def _callbacks(self, run: Path, given: Sequence[Any], has_logger: bool) -> list[Any]:
        """Return what a training has beside the callbacks that are ``given``, around them."""
        arguments = self.config_init[self.subcommand]
        callbacks: list[Any] = [*given, EpochSeed(_seed_of(arguments)), LastValidation(), PlateauSteps()]
        if arguments.trainer.get("fast_dev_run"):
            # Lightning logs and saves nothing then; what the folder holds is of another training, if of any.
            return callbacks
        folder = RunFolder(run)
        monitor, mode = getattr(self.model, "monitor", None), getattr(self.model, "monitor_mode", "min")
        if monitor:
            # The first of all checkpoints is the one that Lightning, and who looks for the best net, asks for it.
            callbacks.insert(0, RunCheckpoint(folder.checkpoints, "best", monitor=monitor, mode=mode))
        if has_logger:
            callbacks.append(LearningRateMonitor("epoch"))
        return [
            *callbacks,
            # Of its own: save_last would write it only when there is a new best one. After all others, to hold their
            # states; and after every epoch, where Lightning would wait for the next validation.
            RunCheckpoint(folder.checkpoints, "last", save_on_train_epoch_end=True),
            InterruptionCheckpoint(folder.checkpoint, self.delay),
            EpochTime(),
            SaveModel(run, self.end),
            KeepEnvironment(),
            Announcement(run),
        ]


def run(subcommand: str, arguments: Sequence[str], *, example: str = "") -> None:
    """Run one of Lightning's subcommands.

    Args:
        subcommand: fit, validate or test.
        arguments: its flags; a recipe of the library's (``--config recipes/…``) is found where this folder has none.
        example: of a whole command, for the help.

    Raises:
        InvolutionError: the data, the model or the training refuse; or, where a constructor refused, what the parser
            makes of it, raised from that.
        KeyboardInterrupt: Ctrl-C; its words say how the training goes on.
        Terminated: SIGTERM; likewise.
        SystemExit: the usage is wrong (2).
    """
    end, delay = TrainingEnd(), Delay()
    try:
        with (
            terminable(delay),
            without_advertisements(),
            without_known_warnings(subcommand),
            without_tracebacks_of_writers(),
            ExitStack() as folders,
        ):
            _Cli(
                subcommand,
                folders,
                delay,
                end,
                model_class=LightningModule,
                datamodule_class=LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                save_config_kwargs={"overwrite": True},
                parser_class=RecipeParser,
                parser_kwargs={"prog": "involution", subcommand: {"example": example}},
                trainer_defaults={"callbacks": end},
                args=[subcommand, *_with_found_recipes(arguments)],
            )
    except (Terminated, SIGTERMException):
        raise Terminated(end.words) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(end.words) from None
    except RecursionError as error:
        raise CommandError("the configuration is nested too deeply, or a part of it contains itself") from error
    except MisconfigurationException as error:
        raise CommandError(in_one_line(error)) from error
    except Exception as error:
        if end.refusal is not None:
            raise end.refusal from error
        if isinstance(error, ValueError) and "ckpt_path" in str(error):
            # What Lightning does not find of the checkpoints that it has words for.
            raise CommandError(in_one_line(error)) from error
        raise


def _with_found_recipes(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the recipes of an installed library in the place of those that this folder lacks."""
    found = []
    for i, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option in ("--config", "-c") and equals:
            word = f"{option}={recipes.find(value)}"
        elif i and arguments[i - 1] in ("--config", "-c"):
            word = str(recipes.find(word))
        found.append(word)
    return found


def _refuse_what_cannot_be_had(trainer: Any) -> None:
    """Refuse what Lightning takes at its word: it divides by intervals, and on a CPU starts a process for every device."""
    strategy = str(trainer.get("strategy"))
    if strategy.startswith(_OF_NOTEBOOKS):
        raise CommandError(
            f"--trainer.strategy={strategy} starts its processes out of a notebook's; a command starts each anew with ddp"
        )
    for name, remedy in _INTERVALS:
        interval = trainer.get(name)
        if isinstance(interval, (int, float)) and not interval > 0:
            raise CommandError(f"--trainer.{name} must be above 0, got {interval}; leave it out to {remedy}")
    cores = records.cores()
    for name, most, remedy in (
        ("devices", _PROCESSES_PER_CORE * cores, f"this command may use {cores} cores; ask for fewer"),
        ("accumulate_grad_batches", 2**31 - 1, "no training has so many batches; ask for fewer"),
    ):
        # A number of devices may be given as text.
        text = str(trainer.get(name))
        number = int(text[:_DIGITS]) if text.isdigit() else 0
        if number > most:
            raise CommandError(f"--trainer.{name} must be at most {most:,}, got {shown(number)}: {remedy}")


def _refuse_what_would_be_ignored(config: Any) -> None:
    """Refuse flags of Lightning's in whose place this library has its own, which would win without a word."""
    if config.trainer.get("default_root_dir") is not None:
        raise CommandError(
            f"--trainer.default_root_dir={config.trainer.default_root_dir} is not taken: the folder of a training is --run"
        )
    task = config.model.get("init_args", {})
    for name in ("optimizer", "lr_scheduler"):
        # A task of the user's may have none of its own.
        if config.get(name) is not None and name in task:
            raise CommandError(f"--{name} is not taken: the task has its own; say it with --model.{name}")


def _refuse_to_replace_another(run: Path) -> None:
    """Refuse a new training where it would write over what is left of another one."""
    folder = RunFolder(run)
    if folder.checkpoint.exists():
        raise CommandError(f"{run} already holds a training; go on with --ckpt_path last, or choose another --run")
    for left in (folder.checkpoints / "best.ckpt", folder.model):
        if left.exists():
            raise CommandError(
                f"{run} holds {left.relative_to(run)} of a training whose checkpoints/last.ckpt is gone; choose another "
                f"--run, or remove {left}"
            )


@contextmanager
def _without_logs_of_nothing(trainer: Trainer, loggers: Sequence[CSVLogger | TensorBoardLogger]) -> Iterator[None]:
    """Take the folders of this start's logs away where it is refused, or fails, before it has logged a step."""
    try:
        yield
    except Exception:
        folders = [Path(logger.log_dir) for logger in loggers]
        if not trainer.global_step or not any((folder / "metrics.csv").exists() for folder in folders):
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()
        raise


def _find_checkpoint(subcommand: str, run: Path, given: Any) -> str | None:
    """Return the path of the checkpoint that a command means; None for none, and where a training has no last one yet."""
    if given is None and subcommand != "fit":
        raise CommandError(
            f"{subcommand} judges trained weights; say which with --ckpt_path: best or last of those in --run, the path of "
            "a checkpoint, or none for the weights that the model is built with"
        )
    if given is None or str(given) == "none":
        return None
    if str(given) not in ("best", "last"):
        return str(given)
    file = RunFolder(run).checkpoints / f"{given}.ckpt"
    if file.exists():
        return str(file)
    if subcommand == "fit" and str(given) == "last":
        # For the first of many equal commands.
        if _is_first_process():
            print(f"there is no checkpoint at {file}; a new training begins", file=sys.stderr)
        return None
    raise CommandError(f"there is no checkpoint at {file}; name the --run that has it, or the path of a checkpoint")


def _is_first_process() -> bool:
    """Whether this process is the first of a training, by what launchers put into the environment."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return rank_zero_only.rank == 0 and node == "0"


def _seed_of(config: Any) -> int:
    """Return the seed of a training, 0 for one that asked for none."""
    seed = config.seed_everything
    return 0 if isinstance(seed, bool) or seed is None else seed


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
