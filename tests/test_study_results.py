"""Results of a study's trainings: which are of the same recipe, what judges them, and the picture of them."""

import pytest

from involution.errors import CommandError
from involution.studies.declared import drawing, outcome
from involution.studies.declared.results import difference_of_plans, judgement


def test_the_best_checkpoint_judges_nothing(tmp_path):
    assert judgement(tmp_path, "test") is None
    file = tmp_path / "detection-test.json"
    file.write_text('{"checkpoint": "best.ckpt", "results": {"map": 0.9}}')
    assert judgement(tmp_path, "test") is None
    file.write_text('{"checkpoint": "last.ckpt", "results": {"map": 0.5}}')
    assert judgement(tmp_path, "test") == {"map": 0.5}
    file.write_text("{}")
    with pytest.raises(CommandError, match=r"detection-test.json is no record of a judged net"):
        judgement(tmp_path, "test")


def test_the_picture_shows_all_data_and_a_table_each():
    rows = [
        {"net": net, "data": data, "setting": "", "seed": seed, "values": {"a": seed + len(data)}}
        for net in ("x", "y")
        for data in ("all", "half")
        for seed in (0, 1)
    ]
    tables = {"": [{"net": net, "label": net} for net in ("x", "y")]}
    record = {"title": "t", "metric": ["a"], "tables": tables, "published": "", "results": rows, "claims": []}
    axes = drawing.draw(record).axes[0]
    seeds = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert seeds == [[3, 4], [4, 5], [3, 4], [4, 5]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["x, all", "x, half", "y, all", "y, half"]
    assert [text.get_text() for text in axes.texts][:2] == ["3.50 ± 6.35", "4.50 ± 6.35"]
    assert outcome.markdown(record).count("| x |") == outcome.markdown(record).count("| y |") == 2


def test_a_training_from_before_seeds_were_the_images_too_is_one_of_seed_0():
    old = {"seed_everything": 1, "data": {"init_args": {"root": "here"}}}
    assert difference_of_plans({**old, "data": {"init_args": {"seed": 0}}}, old) == ""
    assert difference_of_plans({**old, "data": {"init_args": {"seed": 1}}}, old) == "data.init_args.seed is 0, not 1"


def test_plans_differ_in_what_is_trained_alone():
    one = {"run": "a", "model": {"init_args": {"lr": 1}}, "data": {"init_args": {"root": "here", "x": None}}}
    other = {"run": "b", "model": {"init_args": {"lr": 1}}, "data": {"init_args": {"root": "there"}}}
    assert difference_of_plans(one, other) == ""
    assert difference_of_plans(one, {**other, "trainer": {"max_epochs": 2}}) == "trainer.max_epochs is 2, not None"
    # What a later version added has its default; what the recipe says has to be there.
    later = {**one, "data": {"init_args": {"share": 1.0}}}
    assert difference_of_plans(later, other) == "data.init_args.share is None, not 1.0"
    assert difference_of_plans(later, other, stated=one) == ""
    assert difference_of_plans(later, other, stated=later) == "data.init_args.share is None, not 1.0"
