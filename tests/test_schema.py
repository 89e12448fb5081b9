"""Forms of data: what fits passes, and the first thing that does not is named by its place."""

import pytest

from involution.schema import find_address, find_large, find_problem, shown

FORM = {
    "name": str,
    "sizes": [int],
    "rate?": (None, float),
    "inner?": {"flag": bool, "rest?": dict},
    "share?": lambda value: "" if 0 <= value <= 1 else "must be a share",
}
RIGHT = {
    "name": "a",
    "sizes": [1, 2],
    "rate": 2,
    "inner": {"flag": False, "rest": {}},
    "share": 0.5,
    "further": object(),
}


@pytest.mark.parametrize("data", [RIGHT, {"name": "", "sizes": (0,)}, {**RIGHT, "rate": None}, {**RIGHT, "rate": 1e-9}])
def test_what_fits(data):
    assert find_problem(data, FORM) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 3}, "name must be text, got 3"),
        ({"sizes": []}, "sizes must be a list with something in it, got []"),
        ({"sizes": "12"}, "sizes must be a list with something in it, got '12'"),
        ({"sizes": [1, True]}, "sizes[1] must be a whole number of at most 18 digits, got True"),
        ({"sizes": [10**400]}, "sizes[0] must be a whole number of at most 18 digits, got a number beyond 18 digits"),
        ({"sizes": [1.0]}, "sizes[0] must be a whole number of at most 18 digits, got 1.0"),
        ({"rate": float("nan")}, "rate must be a finite number, got nan"),
        ({"rate": "1"}, "rate must be a finite number, got '1'"),
        ({"inner": []}, "inner must be a mapping with the key 'flag', got []"),
        ({"inner": {}}, "the key 'inner.flag' is missing"),
        ({"inner": {"flag": 1}}, "inner.flag must be true or false, got 1"),
        ({"inner": {"flag": True, "rest": None}}, "inner.rest must be a mapping, got None"),
        ({"share": 2}, "share must be a share"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    assert find_problem({**RIGHT, **change}, FORM) == words


def test_what_is_no_mapping_at_all():
    assert find_problem([], FORM) == "it must be a mapping with the key 'name', got []"
    assert find_problem({}, FORM) == "the key 'name' is missing"
    assert find_problem(float("inf"), float) == "it must be a finite number, got inf"


def test_addresses_are_found_wherever_they_stand():
    for address in ("hf-hub:user/net", "HF_HUB:user/net", "https://host/x", "s3://bucket/x", "timm:x"):
        assert find_address({"a": [1, {"b": (None, address)}]}) == address
        assert find_address(address) == address
    assert find_address({"a": ["rednet50", "resnet50.a1_in1k", "layer: 3", 4, None, "c:/x"]}) == ""


def test_what_is_shown_is_short():
    assert shown([1, 2]) == "[1, 2]" and shown(10**18) == "a number beyond 18 digits"
    assert len(shown("x" * 10_000)) == 58 and "\n" not in shown("a\nb")


def test_large_numbers_are_found_on_both_sides_of_zero_wherever_they_stand():
    for number in (10**12, -(10**12), float("nan"), float("-inf")):
        assert find_large({"a": [1, {"b": (0.5, number)}]}, 10**6) == "a[1].b[1]"
        assert find_large(number, 10**6, "here") == "here"
    assert find_large({"a": [10**6, -(10**6), "x" * 100, None, True]}, 10**6) == ""
