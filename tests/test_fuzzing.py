"""A fixed slice of ``make fuzz``, and everything that it ever found."""

import random
from math import prod

import definition
import pytest
import torch
from cases import CASES, cases
from fuzzing.__main__ import FAILURES, attempt, once
from fuzzing.mutations import mutated
from fuzzing.operators import CALLS
from fuzzing.readers import READERS, read

pytest.importorskip("lightning")

SLICE = {"operator": 500, "layer": 500, **dict.fromkeys(READERS, 150)}


@pytest.mark.parametrize("name", READERS)
def test_the_files_themselves_are_taken(name, tmp_path):
    for file, content in READERS[name].files.items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if file == "float.tif":
            # Its range is not known.
            assert attempt(name, path) == "refused"
        else:
            read(name, path)


@pytest.mark.parametrize("name", SLICE)
def test_what_is_changed_is_taken_or_refused(name):
    assert "failed" not in {once(name, seed) for seed in range(SLICE[name])}


@pytest.mark.parametrize("path", sorted(FAILURES.rglob("*-*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_failed_once(path, tmp_path):
    copy = tmp_path / path.name.partition("-")[2]
    copy.write_bytes(path.read_bytes())
    assert attempt(path.parent.name.replace("_", " "), copy) in ("taken", "refused")


def test_mutations_are_those_of_their_seed_and_change_something():
    content = bytes(range(256)) * 4
    first = [mutated(content, random.Random(seed)) for seed in range(50)]
    assert first == [mutated(content, random.Random(seed)) for seed in range(50)]
    assert sum(changed != content for changed in first) > 45 and len(set(first)) > 45


@cases(*(case for case in CASES if prod(case.output_size) * prod(case.kernel_size) * case.channels < 2_000))
def test_the_judge_equals_the_definition(case):
    """In sums, and in the gradients that PyTorch makes of them."""
    x, h, dy = case.tensors()
    y = definition.by_indices(x.requires_grad_(), h.requires_grad_(), case.window)
    y.backward(dy)
    torch.testing.assert_close(y.detach(), definition.forward(case, x.detach(), h.detach()))
    torch.testing.assert_close(x.grad, definition.input_gradient(case, dy, h.detach()))
    torch.testing.assert_close(h.grad, definition.kernel_gradient(case, dy, x.detach()))


def test_a_wrong_result_is_found(monkeypatch):
    from fuzzing import operators

    wrong = [lambda *a, right=right, **options: right(*a, **options) * 1.01 for right in operators.OPERATORS]
    monkeypatch.setattr(operators, "OPERATORS", wrong)

    def call():
        for seed in range(20):
            CALLS["operator"](random.Random(seed))

    with pytest.raises(AssertionError):
        call()


def test_a_wrong_gradient_of_a_layer_is_found(monkeypatch):
    from fuzzing import operators

    class Wrong(operators.Involution2d):
        def forward(self, input):
            # The right result; the gradient of its input is doubled.
            return super().forward(input + (input - input.detach()))

    monkeypatch.setattr(operators, "LAYERS", (Wrong,) * 3)

    def call():
        for seed in range(60):
            CALLS["layer"](random.Random(seed))

    with pytest.raises(AssertionError):
        call()


def test_a_file_that_a_reader_changes_or_adds_is_found(monkeypatch, tmp_path):
    reader = READERS["index"]
    for change in (lambda path: path.write_bytes(b""), lambda path: (path.parent / "more").touch()):
        monkeypatch.setitem(READERS, "index", reader._replace(read=change))
        monkeypatch.setattr("fuzzing.__main__.FAILURES", tmp_path)
        with pytest.raises(AssertionError, match=r"was changed|files appeared"):
            once("index", 0)
        assert [path.name for path in (tmp_path / "index").iterdir()]
