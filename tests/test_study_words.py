"""What a study's results, tables and claims say, and what of its file and of its trainings they say it of."""

import json

from studies import changed, saved_model, study_of_nothing  # noqa: F401

from involution import recipes
from involution.studies.claims import RULE, judge
from involution.studies.declared import outcome
from involution.studies.declared.results import collect_diverged, rows_of, values

ROWS = [
    {"net": net, "data": "", "setting": "", "seed": seed, "values": {"a": value}, "params": None, "macs": None}
    for net, of_net in (("x", (5.0, 5.5)), ("y", (3.0, 3.1)), ("z", (1.0,)))
    for seed, value in enumerate(of_net)
]


def measured(**claim):
    record = {"metric": ["a"], "results": ROWS, "claims": [{"words": "w", "source": "s", **claim}]}
    _, ((words, source, n, found, verdict),) = outcome.claims_table(judge(record))
    assert (words, source) == ("w", "s")
    return n, found, verdict


def test_a_claim_is_shown_with_interval_probability_and_bound():
    # Differences of 2 and 2.4: 2.2 ± 12.706 · 0.2, and t = 11 on one degree of freedom.
    paired = "+2.20 (-0.34 to +4.74, p = 0.058, paired)"
    assert measured(of="x", than="y") == ("2", f"x less y: {paired}", "undecided at n = 2")
    assert measured(of="x", than="y", by=0.5)[1] == f"x less y: {paired}, bound 0.5"
    assert measured(of="x", than="y", within=1.5)[1] == f"x less y: {paired}, within 1.5"
    assert measured(of="x") == ("2", "x: +5.25 (+2.07 to +8.43)", "supported")
    assert measured(of="x", than="z") == ("1", "x less z: +4.00", "undecided at n = 1")
    assert measured(of="x", than="nothing") == ("0", "–", "not measured")


def test_a_summary_says_what_is_not_known_with_a_dash():
    assert outcome.summary(ROWS, ["a"], "x", unit=" %") == ["2", "5.25 ± 3.18 %", "–", "–"]
    assert outcome.summary(ROWS, ["a"], "z", unit=" %") == ["1", "1.00 %", "–", "–"]
    assert outcome.summary(ROWS, ["a"], "nothing") == ["0", "–", "–", "–"]


def test_the_rule_of_verdicts_stands_below_claims_alone():
    record = {"title": "t", "metric": ["a"], "results": ROWS, "tables": {}, "published": "", "claims": []}
    assert RULE not in outcome.markdown(record)
    claims = [{"words": "w", "source": "s", "of": "x"}]
    assert outcome.markdown({**record, "claims": claims}).rstrip().endswith(RULE)


def test_figures_are_numbers():
    history = [{"epoch": 1, "loss": 2.0, "done": True, "note": "text"}]
    assert values(history, {"val_accuracy": False, "map": 0.25}) == {"loss": 2.0, "test.map": 25.0}


def test_a_result_is_of_the_last_start_and_modified_where_any_was(study):
    (entry, *_) = changed(study).entries()
    for number, (commit, modified) in enumerate((("first", True), ("last", False))):
        folder = entry.run / "logs" / f"version_{number}"
        folder.mkdir(parents=True)
        start = {"date": str(number), "commit": commit, "modified": modified, "machine": {}, "versions": {}}
        (folder / "environment.json").write_text(json.dumps({**start, "command": "c"}))
    row = collect_diverged(entry, "words", adopted=True)
    assert (row["commit"], row["modified"], row["adopted"], row["diverged"]) == ("last", True, True, "words")
    assert [start["date"] for start in row["starts"]] == ["0", "1"] and "command" not in row["starts"][0]


def test_results_of_settings_that_were_not_chosen_are_of_the_study(tmp_path):
    rows = [{"net": net, "data": "", "setting": "", "seed": 0, "values": {"a": None}} for net in "xy"]
    file = tmp_path / "study.json"
    file.write_text(json.dumps({"results": rows[:1], "not_chosen": rows[1:]}))
    assert rows_of(file) == rows


def test_a_net_may_say_otherwise_than_the_study_and_the_study_than_the_recipe(study):
    recipe = study.parent / "recipe.yaml"
    recipe.write_text(f"run: runs/mine\n{recipe.read_text()}")

    def epochs(number):
        return {"trainer": {"max_epochs": number}}

    nets = {"seven": {"recipe": "recipe.yaml"}, "nine": {"recipe": "recipe.yaml", "overrides": epochs(9)}}
    found = changed(study, nets=nets, overrides=epochs(5), claims=None)
    assert [found.plans[net]["trainer"]["max_epochs"] for net in nets] == [5, 9]
    assert recipes.load(recipe)["run"] == "runs/mine" and not any("run" in plan for plan in found.plans.values())


def test_what_a_study_does_not_say_has_its_default(study):
    found = changed(study, runs=None, claims=None)
    assert found.runs == "runs/studies/study/{name}" and found.metric == ("val_accuracy",)
    ((title, rows),) = found.tables.items()
    assert title == "" and [(row.net, row.label, row.published) for row in rows] == [
        ("seven", "seven", None),
        ("three", "three", None),
    ]
    tables = {"K": [{"net": "seven", "label": "K=7", "published": 70.5}]}
    (row,) = changed(study, tables=tables).tables["K"]
    assert (row.net, row.label, row.published, row.published_as) == ("seven", "K=7", 70.5, "")
