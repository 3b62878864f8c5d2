"""The figures of what each condition, method and class found, and their data."""

import csv
import io
from typing import Any

import numpy as np
import pytest

from side_ray.report import svg
from side_ray.report.verdict.found_figures import found_figures
from side_ray.report.verdict.rate_figure import cut_figures
from side_ray.statistics.evidence.ledger import overview
from tests.report.conftest import Outline, make_metrics, make_values

LEDGER: dict[str, Any] = {
    "revealed": 6,
    "copied": 4,
    "rows": [],
    "overlap": [{"methods": ["td"], "images": 3}, {"methods": ["random", "td"], "images": 1}],
    "classes": [
        {"number": number, "images": 10 + number, "revealed": number % 7, "copied": number % 3} for number in range(40)
    ],
    "clusters": [{"number": 0, "images": 60, "revealed": 6, "copied": 4}],
}


@pytest.fixture(scope="module")
def drawn() -> tuple[dict[str, svg.Figure], dict[str, list[dict[str, str]]]]:
    found = make_metrics() | {"ledger": LEDGER}
    with svg.keeping() as kept:
        made = [*cut_figures(found, make_values()), *found_figures(found)]
    tables = {
        name: list(csv.DictReader(io.StringIO(kept[f"{name}.csv"].decode()))) for name in {each.name for each in made}
    }
    return {each.name: each for each in made}, tables


def test_forest_holds_every_condition_with_its_interval(drawn, metrics):
    figures, tables = drawn
    rows = {(row["series"], row["x"]): float(row["y"]) for row in tables["excess"]}
    assert len(rows) == 3 * len(metrics["conditions"])
    assert rows["excess", "SIDE at λ=5"] == pytest.approx(100 * metrics["conditions"][3]["excess"])
    assert rows["low", "Random"] == pytest.approx(100 * metrics["conditions"][0]["excess_ci"][0])
    assert {each["method"] for each in metrics["conditions"]} == {"random", "td", "ti"}
    assert all(colour in figures["excess"].svg for colour in svg.METHOD_COLOURS.values())


def test_overlap_names_the_methods(drawn):
    figures, tables = drawn
    assert "SIDE: 3; Random + SIDE: 1." in figures["overlap"].alt
    assert [(row["x"], row["y"]) for row in tables["overlap"]] == [("SIDE", "3"), ("Random + SIDE", "1")]


def test_classes_beyond_the_most_are_left_out_and_counted(drawn):
    figures, tables = drawn
    assert figures["yield-classes"].caption.endswith("left out: 10.")
    assert len([row for row in tables["yield-classes"] if row["series"] == "copied"]) == 30
    assert "yield-clusters" not in figures


def test_share_by_cut_ends_at_the_median_and_meets_the_counts(drawn, values, metrics):
    _, tables = drawn
    rows = [
        (float(row["x"]), float(row["y"]))
        for row in tables["matches-by-cut"]
        if row["series"] == "Random, training images"
    ]
    best = values[0]["best"]
    assert len(rows) == 121
    for cut, share in rows:
        assert share == pytest.approx(100 * np.mean(best <= cut))
    unseen = [float(row["y"]) for row in tables["matches-by-cut"] if row["series"] == "Random, unseen images"]
    assert (unseen[0], unseen[-1]) == (pytest.approx(0, abs=0.06), pytest.approx(50, abs=1))


def test_nothing_is_drawn_of_what_is_not_there(metrics, without):
    assert not [*found_figures(without(metrics, "excess_ci")), *cut_figures(metrics, [])]


def test_counts_leave_out_duplicates_and_images_without_a_label():
    table = {
        "train_id": np.arange(6),
        "group": np.array([0, 0, 2, 3, 4, 5]),
        "label": [1, 1, 1, None, 2, 2],
        "stratum": np.array([0, 0, 0, 1, 1, 1]),
        "methods": [["td"], ["td"], ["random", "td"], ["td"], [], []],
        "revealed": np.array([1, 1, 1, 1, 0, 1], bool),
        "copied": np.array([1, 1, 1, 1, 0, 0], bool),
    }
    found = overview(table)
    assert found["overlap"] == [{"methods": ["td"], "images": 2}, {"methods": ["random", "td"], "images": 1}]
    assert found["classes"] == [
        {"number": 1, "images": 2, "revealed": 2, "copied": 2},
        {"number": 2, "images": 2, "revealed": 1, "copied": 0},
    ]
    assert [each["images"] for each in found["clusters"]] == [2, 3]


def test_the_page_shows_them(local_audit):
    page = Outline(local_audit.run.store.read("report.html").decode())
    assert "What each condition found" in page.text("h2")
    alts = [each["aria-label"] for each in page.all("svg")]
    for start in ("Excess of matches", "Copied training images by", "Training images found by class"):
        assert [alt for alt in alts if alt.startswith(start)]
