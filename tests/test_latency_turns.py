"""What a benchmark asks of the processes of its nets, and in which order; no net runs here."""

from pathlib import Path

import pytest

from involution.studies.latency import run

NAN = float("nan")


@pytest.fixture
def asked(monkeypatch):
    """Let nets be made up, and return what they are asked: the name of a net, what of it, and in which batch."""
    calls = []

    class MadeUp:
        differences = {"wrong": 2e-3, "broken": NAN}

        def __init__(self, job, folder):
            self.job = job

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def prepare(self):
            pass

        def open(self):
            return self.differences.get(self.job.model, 1e-7)

        def time(self, number):
            calls.append((self.job.model, "time", self.job.batch))
            return 1.0 + number

        def peak_mib(self):
            return 7.0

        def accuracy(self, images):
            calls.append((self.job.model, "accuracy", self.job.batch))
            return 0.5

    monkeypatch.setattr(run, "Worker", MadeUp)
    return calls


def plan(models, batches=(1,), rounds=3, **more):
    return run.Plan(models, ("eager",), ("float32",), batches, (8, 8), 1, rounds, **more)


@pytest.mark.parametrize(("name", "words"), [("wrong", "2.0e-03"), ("broken", "nan")])
def test_a_net_that_is_not_the_net_has_a_reason_and_no_times(name, words, asked):
    (rows,) = run.measure(plan((name, "right")))
    refused, right = rows
    assert refused.reason == f"differs from PyTorch by {words} of the largest output"
    assert refused.times_ms == () and right.times_ms == (1.0, 2.0, 3.0) and not right.reason
    assert {model for model, *_ in asked} == {"right"}


def test_in_every_round_another_net_begins(asked):
    list(run.measure(plan(("a", "b"))))
    assert [model for model, *_ in asked] == ["a", "b", "b", "a", "a", "b"]
    asked.clear()
    list(run.measure(plan(("a", "b", "c"))))
    assert [model for model, *_ in asked] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_accuracy_is_asked_once_of_every_net(asked):
    rows = [
        row for rows in run.measure(plan(("a", "b"), (4, 1), 1, processes=2, accuracy=Path("photos"))) for row in rows
    ]
    assert [call for call in asked if call[1] == "accuracy"] == [("a", "accuracy", 4), ("b", "accuracy", 4)]
    assert [(row.batch, row.accuracy) for row in rows] == [(4, 0.5), (4, 0.5), (1, None), (1, None)]
