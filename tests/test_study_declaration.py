"""What a study's file may say, and what is refused before anything is trained."""

import pytest
from studies import changed, saved_model, study_of_nothing  # noqa: F401

from involution.errors import CommandError


def claim(**more):
    return {"claims": [{"words": "a", "source": "b", "of": "seven", **more}]}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"title": None}, "the key 'title' is missing"),
        ({"colour": 1}, "the key 'colour' is unknown"),
        ({"nets": {"a": {}}}, "the key 'nets.a.recipe' is missing"),
        ({"nets": {}}, "nets names no net"),
        (
            {"nets": {"a": {"recipe": "recipe.yaml", "override": {}}}, "claims": None},
            "the key 'nets.a.override' is unknown",
        ),
        ({"seeds": [-1, 0]}, "a seed must be from 0 to"),
        ({"seeds": [1, 1]}, "the same seed twice"),
        ({"data": {"all": {}, 30: {}}}, "data has the name 30, which is no text; write it in quotes"),
        (
            {"nets": {"a/1": {"recipe": "recipe.yaml"}}, "claims": None},
            "nets has the name 'a/1'; a claim would take NET/DATA and A less B apart there",
        ),
        ({"data": {"more less": {}, "all less some": {}}}, "data has the name 'all less some'; a claim would take"),
        ({"choose": {"by": "val", "seeds": [0, 0]}}, "choose.seeds has the same seed twice"),
        ({"settings": {"low": None}}, "settings.low must be a mapping, got None"),
        (
            {"overrides": {"trainer": {"max_epochs": None}}},
            "seven-0 must be trained for a number of epochs: trainer.max_epochs",
        ),
        ({"overrides": {"trainer": {"max_epochs": -1}}}, "a number of epochs: trainer.max_epochs is below 1"),
        ({"runs": "runs/{nam}"}, "of which no folder can be made .*; it may have {name}"),
        ({"runs": "runs/{name"}, "of which no folder can be made"),
        ({"nets": {"a": {"recipe": "b.yaml"}}, "claims": None}, "names the recipe .*b.yaml, which is no file"),
        ({"runs": "runs/{net}"}, "two trainings have the same folder"),
        # Two seeds of one net: the first seeds' folders differ, and the second one's is found out after hours.
        (
            {"runs": "runs/{net}-{setting}", "settings": {"a": {}}, "choose": {"by": "v", "seeds": [0]}},
            "the same folder",
        ),
        ({"judge": "fit"}, "judge must be test or left out"),
        (
            {"claims": [{"words": "a", "source": "b", "of": "nine"}]},
            "a claim names nine, which the study does not train",
        ),
        ({"claims": [{"words": "a"}]}, "the key 'source' is missing"),
        (claim(by=1, within=1), "a claim has by, a bound, or within"),
        (claim(within=-1), "within must be above zero, got -1"),
        (claim(than_metric="loss"), "than_metric is the figure of than"),
        (claim(of="seven less three less seven"), "a side is one net or one difference, A less B"),
        (claim(seen=[7]), r"a claim has seen \[7\], which must be among the seeds"),
        ({"tables": {"x": [{"net": "seven", "lable": "K = 7"}]}}, "the key 'tables.lable' is unknown"),
        ({"tables": {"x": [{"net": "nine"}]}}, "a table names nine, which is no net"),
        ({"curves": {"RedNet": ["nine"]}}, "a curve names nine, which the study does not train"),
        ({"curves": {"RedNet": "seven"}}, "curves.RedNet must be a list with something in it"),
        (
            {"data": {"all": {}, "half": {}}, "claims": None, "curves": {"RedNet": ["seven"]}},
            "a curve names seven without saying on which data; write seven/all",
        ),
        ({"choose": {"by": "val", "seeds": [0], "of": 1}}, "the key 'choose.of' is unknown"),
        ({"choose": {"by": "val_accuracy", "seeds": [0]}}, "choose.by is val_accuracy, by which the nets are judged"),
        ({"choose": {"by": "test.map", "seeds": [0]}}, "choose.by is test.map, by which the nets are judged"),
        ({"choose": {"by": "val", "seeds": [7]}}, "choose.seeds must be among the seeds"),
        ({"settings": {"low": {}, "high": {}}}, "several settings need choose"),
        ({"data": {"all": {}, "half": {}}}, "a claim names seven without saying on which data; write seven/all"),
    ],
)
def test_what_is_no_study_is_refused(study, entries, words):
    with pytest.raises(CommandError, match=words):
        changed(study, **entries)


def test_trainings_lie_in_the_folder_before_the_first_name(study, tmp_path):
    assert changed(study).folder == tmp_path / "runs"
    assert changed(study, runs="x/y/{net}/{seed}").folder.as_posix() == "x/y"
