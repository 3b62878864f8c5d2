"""The text and the figure of the twins, for every outcome."""

import pytest

from side_ray.report.twins import twins_figure, twins_text, twins_verdicts
from tests.report.conftest import band


def twin(condition: str, random: int, guided: int, p: float | None) -> dict:
    rows = []
    for method, scale, hits in (("random", 0.0, random), ("td", 3.0, guided)):
        common = band(hits, hits, hits // 2, 2)
        row = {"method": method, "lambda": scale, "n": 2000, "common": common, "cumulative": {"low": common}}
        rows.append(row if p is None else row | {"against_unconditional": {"p_value": p}})
    classes = {"none": None, "labels": 10, "random": 10, "unique": 300}[condition]
    return {"condition": condition, "classes": classes, "final_loss": 0.06, "conditions": rows}


@pytest.fixture
def found() -> dict:
    twins = [
        twin("none", 40, 90, None),
        twin("labels", 80, 120, 1e-4),
        twin("random", 44, 80, 0.7),
        twin("unique", 10, 12, 1e-5),
    ]
    return {"cut": 0.6021, "similarity": "nl2", "train_size": 300, "twins": twins}


def test_each_twin_gets_the_verdict_that_its_numbers_bear(found):
    lines = {line.split(":")[0] + str("SIDE" in line): line for line in twins_verdicts(found)}
    assert "more, as the paper claims" in lines["true labelsFalse"]
    assert "no clear difference" in lines["random labelsFalse"]
    assert "LESS, against the paper's claim" in lines["unique labelsFalse"]
    assert "SIDE at its best λ = 3 gives 4.50% 90" in lines["unconditionalTrue"]
    assert "unconditionalFalse" not in lines


def test_text_holds_every_count_with_its_interval(found):
    text = twins_text(found)
    assert "nL2 ≤ 0.6021" in text
    for name in ("unconditional", "true labels", "random labels", "unique labels"):
        assert text.count(f"| {name} |") == 4
    assert "4.00% 80 (3.18–4.95%)" in text


def test_figure_has_a_line_for_each_twin(found):
    figure = twins_figure(found)
    for name in ("unconditional", "true labels", "random labels", "unique labels"):
        assert name in figure.svg
        assert f"{name}: " in figure.alt
