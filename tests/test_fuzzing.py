"""A fixed slice of ``make fuzz``, and everything that it ever found."""

import random

import pytest
from fuzzing.__main__ import FAILURES, attempt, once
from fuzzing.mutations import mutated
from fuzzing.operators import CALLS
from fuzzing.readers import READERS, read

pytest.importorskip("lightning")

SLICE = {"operator": 60, "layer": 60, **dict.fromkeys(READERS, 150)}


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


def test_a_wrong_result_is_found(monkeypatch):
    from fuzzing import operators

    wrong = [lambda *a, right=right, **options: right(*a, **options) * 1.01 for right in operators.OPERATORS]
    monkeypatch.setattr(operators, "OPERATORS", wrong)

    def call():
        for seed in range(20):
            CALLS["operator"](random.Random(seed))

    with pytest.raises(AssertionError):
        call()
