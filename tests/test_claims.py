"""Means, intervals, paired differences and the verdicts that follow from them."""

import math
import re
from pathlib import Path

import pytest
from scipy import stats

from involution import records
from involution.recipes import load
from involution.studies.claims import Claim, judge, values_of, verdict
from involution.studies.declared.outcome import claims_table
from involution.studies.statistics import Estimate, difference, estimate, holm

ROOT = Path(__file__).parent.parent


def test_the_interval_is_students():
    # Half widths by the printed table of t: 12.706, 4.303 and 2.776 for 1, 2 and 4 degrees of freedom.
    for values, t in (([1.0, 3.0], 12.706), ([1.0, 2.0, 3.0], 4.303), ([1.0, 2.0, 3.0, 4.0, 5.0], 2.776)):
        found = estimate(values)
        n, middle = len(values), sum(values) / len(values)
        deviation = math.sqrt(sum((v - middle) ** 2 for v in values) / (n - 1))
        assert found.mean == middle and found.n == n
        assert found.half_width == pytest.approx(t * deviation / math.sqrt(n), rel=1e-3)
    one = estimate([5.0])
    assert (one.n, one.mean, one.low, one.high) == (1, 5.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_differences_pair_where_seeds_do():
    of, than = {0: 10.0, 1: 20.0, 2: 30.0}, {0: 9.0, 1: 18.9, 2: 29.1}
    paired = difference(of, than)
    assert paired.paired and paired.n == 3 and paired.mean == pytest.approx(1.0)
    # t = 1 / (0.1 / √3) = 17.3 with two degrees of freedom.
    assert paired.p == pytest.approx(0.00332, rel=0.01) and paired.low > 0
    # The same values of other seeds: the spread of the seeds swallows the difference.
    apart = difference(of, {seed + 3: value for seed, value in than.items()})
    assert not apart.paired and apart.n == 3 and apart.low < 0 < apart.high and apart.p > 0.8
    # Seeds that only one side has do not count where two or more pair.
    assert difference({**of, 7: 1000.0}, than) == paired
    assert difference({0: 1.0}, {0: 3.0}).mean == -2.0 and difference({0: 1.0}, {0: 3.0}).p is None
    assert difference({0: 1.0}, {1: 3.0, 2: 4.0}).low == -math.inf
    # Of one value the other side's of its seed is the best to compare it with.
    assert difference({0: 1.0}, {0: 0.5, 1: 9.0}).mean == 0.5
    assert difference({0: 1.0}, {0: 0.5, 1: 9.5}, pairs=False).mean == -4.0
    with pytest.raises(ValueError, match="on both sides"):
        difference({}, {0: 1.0})


def test_welchs_degrees_of_freedom():
    # Unequal variances and sizes: t = 0.329 on 6.95 degrees of freedom.
    a = dict(enumerate([3.0, 7.0, 11.0, 0.0, 7.0, 0.0, 4.0, 5.0, 6.0, 2.0]))
    b = {i + 100: v for i, v in enumerate([-1.0, 10.0, 3.0, 5.0, 2.0])}
    found = difference(a, b)
    va, vb = (
        sum((v - sum(x) / len(x)) ** 2 for v in x) / (len(x) - 1) / len(x) for x in (list(a.values()), list(b.values()))
    )
    freedom = (va + vb) ** 2 / (va**2 / 9 + vb**2 / 4)
    assert freedom == pytest.approx(6.95, abs=0.005) and found.n == 5
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(va + vb))
    assert found.half_width == pytest.approx(5.0366, abs=1e-4)
    assert found.p == pytest.approx(stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False).pvalue)


def test_a_difference_of_values_without_spread_is_certain():
    ones = {0: 1.0, 1: 1.0}
    assert difference(ones, {2: 1.0, 3: 1.0}).p == 1.0
    assert difference(ones, {2: 2.0, 3: 2.0}).p == 0.0


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        (Estimate(3, 1.0, 0.5, 1.5), {}, "supported"),
        (Estimate(3, -1.0, -1.5, -0.5), {}, "refuted"),
        (Estimate(3, 1.0, -0.5, 2.5), {}, "undecided at n = 3"),
        (Estimate(3, 1.0, 0.5, 1.5), {"by": 1.0}, "undecided at n = 3"),
        (Estimate(3, 1.0, 0.5, 1.5), {"by": 2.0}, "refuted"),
        (Estimate(3, 0.1, -0.2, 0.4), {"within": 1.0}, "supported"),
        (Estimate(3, 2.0, 1.5, 2.5), {"within": 1.0}, "refuted"),
        (Estimate(3, -2.0, -2.5, -1.5), {"within": 1.0}, "refuted"),
        (Estimate(3, 0.5, -0.5, 1.5), {"within": 1.0}, "undecided at n = 3"),
        (estimate([100.0]), {}, "undecided at n = 1"),
        (estimate([0.0]), {"within": 1.0}, "undecided at n = 1"),
        (None, {}, "not measured"),
        (Estimate(2, 1.0, 0.5, 1.5), {"asked": 3}, "undecided at n = 2 of 3"),
        (Estimate(3, 1.0, 0.5, 1.5), {"asked": 3}, "supported"),
        # One image of 360 in both seeds.
        (difference({0: 97.50, 1: 98.33}, {0: 97.22, 1: 98.05}), {}, "undecided at n = 2"),
        (estimate([52.0, 52.0]), {}, "undecided at n = 2"),
    ],
)
def test_a_verdict_follows_from_the_interval(found, options, expected):
    assert verdict(found, **options) == expected


ROWS = [
    {"net": net, "data": data, "seed": seed, "values": {"a": base + slope * seed, "b": base}}
    for net, base, slope in (("x", 10.0, 1.0), ("y", 5.0, 0.5))
    for data in ("all", "half")
    for seed in (0, 1)
]


def test_values_of_a_side():
    assert values_of(ROWS, "x/all", ["a"]) == {0: 10.0, 1: 11.0}
    assert values_of(ROWS, "x/all", ["a", "b"]) == {0: 10.0, 1: 10.5}
    assert values_of(ROWS, "x/all", ["a", "c"]) == {}, "no mean of what is there by chance"
    assert values_of(ROWS, "x/all", ["c"]) == values_of(ROWS, "z", ["a"]) == {}


def test_a_side_may_be_a_difference():
    # 10 + s - (5 + s / 2) within each seed, and of seeds that both have alone.
    assert values_of(ROWS, "x/all less y/half", ["a"]) == {0: 5.0, 1: 5.5}
    assert values_of(ROWS[:1] + ROWS[4:], "x/all less y/all", ["a"]) == {0: 5.0}
    claim = {"words": "w", "source": "s", "of": "x/all less x/half", "than": "y/all less y/half"}
    (judged,) = judge({"metric": "a", "results": ROWS, "claims": [claim]})
    assert judged.claim.sides == "(x/all less x/half) less (y/all less y/half)"
    assert judged.found.mean == 0 and judged.found.n == 2


def test_a_side_that_does_not_say_on_which_data_is_refused():
    with pytest.raises(ValueError, match="x has two values of seed 0; say on which data, as x/DATA"):
        values_of(ROWS, "x", ["a"])


def test_a_study_decides_nothing_before_all_its_seeds_are_there():
    claim = {"words": "w", "source": "s", "of": "x/all", "than": "y/all"}
    record = {"metric": "a", "results": ROWS, "claims": [claim], "study": {"seeds": [0, 1, 2]}}
    assert judge(record)[0].verdict == "undecided at n = 2 of 3"
    assert judge({**record, "study": {"seeds": [0, 1]}})[0].verdict == "supported"


def test_seeds_that_were_seen_decide_nothing():
    rows = [
        {"net": net, "seed": seed, "values": {"large": value + seed, "small": 1.0 + seed}}
        for net, value in (("a", 5.0), ("b", 3.0))
        for seed in range(4)
    ]
    # No two differences alike, or there were no interval to speak of.
    rows[0]["values"]["large"] = 5.1
    rows[3]["values"]["large"] = 8.1
    claim = {"words": "a is better", "source": "us", "of": "a", "than": "b", "metric": "large"}
    gain = {**claim, "of": "a less b", "than": "a less b", "than_metric": "small"}
    seen = ({"seen": [0]}, {"seen": [0, 1, 2]}, {"seen": [0, 1, 2, 3]})
    record = {"metric": ["large"], "results": rows, "claims": [claim, *({**claim, **one} for one in seen), gain]}
    judged = judge(record)
    assert [one.verdict for one in judged] == [
        "supported",
        "supported",
        "undecided at n = 1 unseen",
        "undecided at n = 0 unseen",
        "supported",
    ]
    assert all(one.found.n == 4 and one.found.mean == pytest.approx(2.05) for one in judged)
    assert judged[-1].claim.sides == "a less b, large less small"


def test_the_probability_at_a_bound_is_below_5_percent_where_the_interval_does_not_hold_it():
    for found in (estimate([1.0, 1.5, 2.0]), difference({0: 2.0, 1: 3.5, 2: 3.0}, {0: 1.0, 1: 2.0, 2: 1.0})):
        assert found.p_at(found.low) == pytest.approx(0.05) and found.p_at(found.high) == pytest.approx(0.05)
        assert found.p_at(found.low - 0.1) < 0.05 < found.p_at(found.low + 0.1)
        assert found.p_at(found.mean) == 1.0
    assert found.p_at(0.0) == pytest.approx(found.p)
    assert estimate([1.0]).p_at(0.0) is None


def test_holm_takes_all_tests_together():
    assert holm([0.001, 0.02, 0.03, 0.2]) == [True, False, False, False]
    assert holm([0.2, 0.012, 0.001, 0.016]) == [False, True, True, True]
    # The third fails, so the fourth is not asked.
    assert holm([0.049, 0.001, 0.03, 0.04]) == [False, True, False, False]
    assert holm([]) == []


def test_seeds_of_other_images_do_not_pair():
    rows = [
        {"net": net, "seed": s, "values": {"a": v + s * w}}
        for net, v, w in (("x", 3.0, 1.0), ("y", 1.0, 0.9))
        for s in range(3)
    ]
    claim = {"words": "w", "source": "s", "of": "x", "than": "y"}
    paired, apart = judge({"metric": "a", "results": rows, "claims": [claim, {**claim, "paired": False}]})
    assert paired.verdict == "supported" and paired.found.paired
    assert apart.found.mean == paired.found.mean and not apart.found.paired and apart.verdict == "undecided at n = 3"


def test_about_equal_is_tested_at_the_bound_that_is_harder_to_exclude():
    rows = [{"net": "x", "seed": s, "values": {"a": v}} for s, v in enumerate((0.1, 0.2, 0.15))]
    claim = {"words": "w", "source": "s", "of": "x", "within": 1.0}
    (one,) = judge({"metric": "a", "results": rows, "claims": [claim]})
    assert one.verdict == "supported" and one.p == one.tested.p_at(1.0) > one.tested.p_at(-1.0)


def test_seeds_that_were_seen_do_not_hide_that_a_study_is_unfinished():
    rows = [
        {"net": net, "seed": seed, "values": {"a": value + slope * seed}}
        for net, value, slope in (("x", 5.0, 1.1), ("y", 3.0, 1.0))
        for seed in range(4)
    ]
    claim = {"words": "w", "source": "s", "of": "x", "than": "y", "seen": [0]}
    record = {"metric": "a", "results": rows, "claims": [claim], "study": {"seeds": [0, 1, 2, 3, 4]}}
    assert judge(record)[0].verdict == "undecided at n = 4 of 5"
    judged = judge({**record, "study": {"seeds": [0, 1, 2, 3]}})
    assert judged[0].verdict == "supported"
    _, ((*_, measured, verdict),) = claims_table(judged)
    # Differences are 2.0, 2.1, 2.2 and 2.3, and without the first seed they are 2.2 in the mean.
    assert re.fullmatch(
        r"x less y: \+2\.15 \(.*, paired\); unseen: \+2\.20 \(\+1\.95 to \+2\.45, .*, paired\)", measured
    )
    assert verdict == "supported"


def test_claims_of_a_record_are_judged():
    common = {"words": "w", "source": "s", "of": "x/all"}
    record = {
        "metric": "a",
        "results": ROWS,
        "claims": [{**common, "than": "y/all"}, {**common, "by": 100.0}, {**common, "than": "z"}],
    }
    first, second, third = judge(record)
    assert first.verdict == "supported" and first.found.mean == 5.25 and first.found.paired
    assert second.verdict == "refuted" and second.found.p is None and second.p < 0.05
    assert first.p == pytest.approx(first.found.p)
    assert third.verdict == "not measured" and third.found is None


@pytest.mark.parametrize("data", [{"words": "w"}, {"words": "w", "source": "s", "of": "x", "status": "supported"}])
def test_a_verdict_cannot_be_written(data):
    with pytest.raises(ValueError, match="a claim is not of the form expected"):
        Claim.read(data, "a")


def test_the_page_of_claims_is_that_of_the_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    from tools import claims

    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    stale = [line for line in claims.lines(Path("results")) if line and line not in page]
    assert not stale, "run python -m tools.reproduction"
    block = page.partition("<!-- claims:")[2].partition("<!-- end of claims -->")[0]
    verdicts = [line.split(" | ")[4] for line in block.splitlines() if line.startswith("| ")][2:]
    kinds = ("supported", "refuted", "undecided at n = ", "not measured")
    assert len(verdicts) > 20 and not [verdict for verdict in verdicts if not verdict.startswith(kinds)]


def asked(claim):
    """Return what a claim asks, without its words."""
    return {key: value for key, value in claim.items() if key not in ("words", "source", "note", "seen")}


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "studies").glob("*.json")), ids=lambda path: path.stem)
def test_a_claim_that_is_asked_otherwise_than_in_its_record_names_the_seeds_that_were_seen(path):
    record = records.read(path)
    before = [asked(claim) for claim in record["claims"]]
    for claim in load(ROOT / "recipes" / "studies" / f"{path.stem}.yaml")["claims"]:
        if asked(claim) not in before:
            assert {row["seed"] for row in record["results"]} <= set(claim["seen"]), claim["words"]


def test_trainings_that_several_records_share_are_named(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from tools import claims

    def study(*runs):
        return {"results": [{"run": f"runs/{run}"} for run in runs]}

    property_of_one = {"results": [{}], "command": "measure --pair a=runs/a-0/checkpoints/last.ckpt b=hub"}
    named = [("one", study("a-0", "b-0", "c-0")), ("two", study("b-0", "a-0")), ("of", property_of_one)]
    assert list(claims.shared_trainings(named)) == ["- `of`, `one`, `two`: a-0", "- `one`, `two`: b-0"]


def test_the_picture_of_claims_shows_each_that_has_an_interval():
    pytest.importorskip("matplotlib")
    from tools import claims_picture

    rows = [
        {"net": net, "seed": s, "values": {"a": v + s * v / 50}} for net, v in (("x", 5.0), ("y", 2.0)) for s in (0, 1)
    ]
    rows.append({"net": "z", "seed": 0, "values": {"a": 1.0}})
    claims = [
        {"words": "less", "source": "s", "of": "y", "than": "x"},
        {"words": "one seed", "source": "s", "of": "x", "than": "z"},
        {"words": "never", "source": "s", "of": "w"},
        {"words": "more", "source": "s", "of": "x", "than": "y", "by": 2.4, "note": "by 2.4"},
        {"words": "more", "source": "s", "of": "x", "than": "y", "by": 2.6, "note": "by 2.6"},
    ]
    judged = judge({"metric": "a", "results": rows, "claims": claims})
    assert claims_picture.counts(judged) == (
        "Of 5 claims, some of them the same on other data, what was measured supports 2, refutes 1 and leaves 1 undecided, 1 of "
        "those for want of a second seed; not measured: 1. Where all 3 tests together may err with 5 % (Holm), 0 stay supported and 1 refuted, which "
        "is said behind them."
    )
    axes = claims_picture.draw(judged).axes[0]
    written = ["more", "by 2.4", "supported", "by 2.6", "supported", "less", "refuted (Holm)"]
    assert [text.get_text() for text in axes.texts] == written
    means = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert [mean for mean, _ in means] == [pytest.approx(3.03), pytest.approx(3.03), pytest.approx(-3.03)]
    verdicts = {text.xy[1] for text in axes.texts if text.get_text().startswith(("supported", "refuted"))}
    assert verdicts == {y for _, y in means} and len(verdicts) == 3
