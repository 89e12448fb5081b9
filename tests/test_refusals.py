"""Every refusal is of one family, is found under what others make of it, and says its sentence alone."""

import pickle
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

import involution.commands.main
import involution.data
import involution.models.checkpoints
import involution.tasks
from involution import errors
from involution.commands import main as cli
from involution.errors import (
    CheckpointError,
    CommandError,
    DataError,
    InvolutionError,
    TrainingError,
    find_refusal,
    in_one_line,
)


@pytest.mark.parametrize(
    ("kind", "base", "place"),
    [
        (CommandError, Exception, involution.commands.main),
        (DataError, OSError, involution.data),
        (DataError, OSError, involution.data.sources),
        (TrainingError, RuntimeError, involution.tasks),
        (CheckpointError, ValueError, involution.models.checkpoints),
    ],
)
def test_kinds(kind, base, place):
    assert issubclass(kind, InvolutionError) and issubclass(kind, base)
    assert getattr(place, kind.__name__) is kind
    error = pickle.loads(pickle.dumps(kind("a.txt is missing; add it")))
    assert type(error) is kind and str(error) == error.sentence == "a.txt is missing; add it"


def test_the_bottom_imports_nothing():
    code = f"import sys, runpy; runpy.run_path({errors.__file__!r}); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


class Refusing(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise ValueError("DataError: not this one")
        except ValueError as error:
            raise DataError("1.png is damaged: DataError: truncated\nafter 3 bytes") from error


def test_a_worker_process_is_left_out_of_the_sentence():
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(Refusing(), num_workers=1)))
    assert "Traceback" in str(caught.value)
    assert caught.value.sentence == "1.png is damaged: DataError: truncated\nafter 3 bytes"


def test_a_refusal_is_found_under_what_was_raised_from_it():
    refusal = TrainingError("no")
    wrapped = ValueError("does not validate")
    wrapped.__cause__ = refusal
    assert find_refusal(wrapped) is find_refusal(refusal) is refusal
    # What merely happened while a refusal was handled is a fault of its own.
    fault = KeyError("x")
    fault.__context__ = refusal
    assert find_refusal(fault) is None and find_refusal(None) is None


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (CommandError("no"), 2, "involution fit: no\n"),
        (DataError("no file"), 2, "involution fit: no file\n"),
        (CheckpointError("no weights"), 2, "involution fit: no weights\n"),
        (TrainingError("no loss"), 2, "involution fit: no loss\n"),
        (
            PermissionError(13, "Permission denied", "x"),
            2,
            "involution fit: x cannot be used: Permission denied; check the path, its permissions and the free space, or "
            "name another\n",
        ),
        (
            OSError(28, "No space left on device"),
            2,
            "involution fit: a file cannot be read or written: No space left on device; check the path, its permissions and "
            "the free space, or name another\n",
        ),
        (OSError("of a library"), 2, "involution fit: of a library\n"),
        (ImportError("install it"), 2, "involution fit: install it\n"),
        (KeyboardInterrupt(), 130, "involution fit: interrupted\n"),
    ],
)
def test_status_and_sentence(monkeypatch, capsys, error, status, words):
    def call(*_):
        raise error

    monkeypatch.setattr(cli, "_call", call)
    assert cli.main(["fit"]) == status
    assert capsys.readouterr().err == words


def test_a_fault_keeps_its_traceback(monkeypatch):
    def call(*_):
        raise KeyError("x")

    monkeypatch.setattr(cli, "_call", call)
    with pytest.raises(KeyError):
        cli.main(["fit"])


def test_an_error_that_says_a_number_alone_is_named_by_its_kind():
    assert in_one_line(KeyError(101)) == "KeyError 101" and in_one_line(EOFError()) == "EOFError"
    assert in_one_line(ValueError("a\n  b")) == "a b" and len(in_one_line("a " * 500)) == 300
