"""What a table answers where there is little to answer by: noise, two nets, none that was trained."""

from dataclasses import replace
from random import Random

import pytest
from searches import declared_table, journal_of_trainings, recorded_table  # noqa: F401

from involution.errors import CommandError
from involution.studies.search import answers, ranking, replay


def test_seeds_that_rank_nets_against_each_other_agree_by_nothing(recorded):
    nets = replay.read(recorded)[1]
    nets = [replace(net, accuracies={0: 50.0 + i, 1: 50.0 - i}) for i, net in enumerate(nets)]
    ranks = ranking.correlations(nets, {})
    assert ranks[0]["spearman"]["low"] == -1, "of which Spearman and Brown's formula makes minus infinity"
    assert ranking.reliability(nets, ranks) == {"seeds": 2, "value": 0, "low": 0, "high": 0}


def test_a_predictor_as_good_as_the_best_is_not_told_apart(recorded):
    nets = [replace(net, first_epoch=None) for net in replay.read(recorded)[1]]
    generator = Random(0)
    scores = {name: {net.name: net.accuracy + generator.gauss(0, 20) for net in nets} for name in ("one", "two")}
    scores["none"] = {net.name: generator.random() for net in nets}
    ranks = {row["predictor"]: row for row in ranking.correlations(nets, scores)}
    (better,) = [name for name in ("one", "two") if "less_than_best" not in ranks[name]]
    (other,) = {"one", "two"} - {better}
    assert ranks[other]["less_than_best"]["low"] < 0 < ranks[other]["less_than_best"]["high"]
    assert ranks["none"]["less_than_best"]["low"] > 0


def test_a_training_that_predicts_itself_is_called_so(recorded):
    nets = [replace(net, accuracies={net.first_seed: net.accuracy}) for net in replay.read(recorded)[1]]
    predictors = [row["predictor"] for row in ranking.correlations(nets, {})]
    assert "first epoch of itself" in predictors and "first epoch" not in predictors


def test_the_best_net_counts_where_it_is_the_dearest_as_well(recorded):
    space, nets = replay.read(recorded)
    two = [replace(net, params=params, accuracies={0: a}) for net, params, a in zip(nets, (100, 200), (40.0, 60.0))]
    assert replay.curve([0, 1], replay.points(two, "params")) == [pytest.approx(11 / 21), 1.0]
    assert answers.answer(space, two, seeds=2)["nets"] == 2


def test_a_table_of_which_nothing_was_trained_answers_nothing(recorded):
    space, nets = replay.read(recorded)
    with pytest.raises(CommandError, match="no net of the table has an accuracy"):
        answers.answer(space, [replace(net, accuracies={}) for net in nets])
