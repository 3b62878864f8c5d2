import math

import pytest

from side_ray.report import wording


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0%"), (1, "100%"), (0.147, "14.7%"), (0.052, "5.20%"), (0.0015, "0.15%"), (0.0005, "0.050%"),
        (0.00012, "0.012%"), (0.000002, "0.0002%"), (0.9997, "99.97%"), (0.999, "99.90%"), (None, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_percent_keeps_the_digits_that_count(share, text):
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ([0.0931, 0.1204], "9.3–12.0%"),
        ([0, 0.00184], "0–0.18%"),
        ([0.98, 1.0], "98.00–100%"),
        (None, ""),
        ([None, 0.1], ""),
    ],
)
def test_interval_has_one_precision(bounds, text):
    assert wording.interval(bounds) == text


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ([17.26, 12815.8], "17.3–>1,000"), ([11.6, None], "over 11.6"), ([0.8, 78.0], "0.8–78.0"), (None, ""),
        ([1200.0, None], ">1,000"), ([1200.0, 4000.0], ">1,000"),
    ],
)  # fmt: skip
def test_lifts_are_capped(bounds, text):
    assert wording.lift_interval(bounds) == text


def test_ratios_are_capped():
    assert [wording.ratio(value) for value in (59.04, 1000, 12815.8, None)] == ["59.0×", "1,000.0×", ">1,000×", "–"]


def test_direction_of_a_similarity_can_be_said():
    assert wording.lower_is_closer({"name": "nl2"})
    assert not wording.lower_is_closer({"name": "sscd"})
    assert wording.lower_is_closer({"name": "lpips", "closer": "lower"})


@pytest.mark.parametrize(
    ("edges", "text"), [([1.4, 1.5], "1.4 to 1.5"), ([None, 1.35], "≤ 1.35"), ([0.6, None], "≥ 0.6"), (None, "")]
)
def test_edges(edges, text):
    assert wording.edges_text(edges) == text


def test_condition_names():
    assert wording.condition_name({"method": "td", "lambda": 0.5}) == "SIDE at λ=0.5"
    assert wording.condition_name({"method": "random", "lambda": 0.0}) == "Random"
    assert wording.condition_name({"method": "folder", "lambda": None}) == "folder"
