"""The control in the report, for every outcome."""

import pytest

from side_ray.report.page import render
from side_ray.report.sections.control import control_verdict
from tests.report.conftest import band, make_config, make_metrics


def with_control(*rows: tuple[str, float, int, int, float]) -> dict:
    """The digits metrics with a control; rows are method, λ, matches with members, with held-out images, adjusted p."""
    metrics = make_metrics()
    conditions = [
        {"method": method, "lambda": scale, "n": 2000, "calibrated": band(hits, hits, hits, held), "p_adjusted": p}
        for method, scale, hits, held, p in rows
    ]
    rises = any(row["p_adjusted"] < 0.05 for row in conditions)
    return metrics | {"control": {"members": 300, "dpm": "dpm/x", "conditions": conditions, "rises": rises}}


def test_a_classifier_that_gives_nothing_is_cleared():
    text = control_verdict(with_control(("random", 0.0, 2, 3, 1.0), ("td", 10.0, 4, 3, 1.0)))
    assert "not match the audited training images measurably more often" in text
    assert "smallest p 1.00" in text
    assert "4 of 2,000" in text
    assert "16.2% matches at SIDE at λ=10" in text
    assert "the matches come from the model, not from the classifier" in text


def test_a_classifier_that_gives_copies_is_named():
    text = control_verdict(with_control(("random", 0.0, 2, 3, 1.0), ("td", 5.0, 40, 3, 1e-6)))
    assert "MORE often" in text
    assert "SIDE at λ=5: 40 of 2,000 against 3" in text


def test_too_few_samples_are_no_proof():
    metrics = with_control(("random", 0.0, 0, 0, 1.0), ("ti", 5.0, 1, 0, 1.0))
    assert "too few samples to distinguish the two" in control_verdict(metrics)


@pytest.mark.parametrize("guided", [True, False])
def test_the_page_has_a_section_where_there_is_a_control(guided):
    rows = [("random", 0.0, 2, 3, 1.0), ("td", 10.0, 4, 3, 1.0)][: 2 if guided else 1]
    page = render(with_control(*rows), make_config())
    assert page.count('<section id="control"') == 1
    assert page.count('href="#control"') == 1


def test_a_report_without_control_has_no_such_section():
    page = render(make_metrics(), make_config())
    assert "control-title" not in page
    assert "Model or classifier" not in page
