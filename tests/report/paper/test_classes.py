"""The lines over the number of classes: Table 2 and Figure 7."""

import numpy as np
import pytest
from scipy import stats

from side_ray.errors import UserError
from side_ray.report.paper.classes import classes_table, fit_line


def test_the_line_and_its_band_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    x = np.linspace(10, 150, 9)
    y = 0.1 + 7e-4 * x + rng.normal(0, 0.01, 9)
    fit, reference = fit_line(x, y), stats.linregress(x, y)
    assert (fit.slope, fit.intercept, fit.r2) == pytest.approx(
        (reference.slope, reference.intercept, reference.rvalue**2)
    )
    half = stats.t.ppf(0.975, 7) * reference.stderr
    assert fit.slope_interval() == pytest.approx((reference.slope - half, reference.slope + half))
    line, low, _ = fit.at(np.array([0.0]))
    assert (line - low)[0] == pytest.approx(stats.t.ppf(0.975, 7) * reference.intercept_stderr)


def test_the_band_covers_the_true_line():
    rng = np.random.default_rng(1)
    x = np.linspace(10, 150, 7)
    hits = 0
    for _ in range(1000):
        fit = fit_line(x, 0.1 + 7e-4 * x + rng.normal(0, 0.02, 7))
        _, low, high = fit.at(np.array([60.0]))
        hits += bool(low[0] <= 0.1 + 7e-4 * 60 <= high[0])
    assert 930 <= hits <= 970


def classes_rows(slope: float) -> list[dict]:
    noise = np.random.default_rng(2).normal(0, 1e-3, 6)
    return [
        {
            "classes": c,
            "kept": c,
            "n": 40 * c,
            "ams": 0.1 + slope * c + e,
            "ums": 0.05 + e,
            "ums_equal": 0.05 - slope * c + e,
            "equal_n": 400,
        }
        for c, e in zip((10, 20, 50, 80, 100, 150), noise, strict=True)
    ]


def test_table_2_tells_a_rise_from_a_fall_and_from_nothing():
    about = {"band": "low", "scale": 5.0, "per_class": 40, "dataset": None}
    found = classes_table("table2", classes_rows(1e-3), about)
    assert [row["score"] for row in found.rows] == ["ams", "ums", "ums_equal"]
    assert found.rows[0]["slope"] == pytest.approx(1e-3, rel=0.05)
    text = found.text.splitlines()
    assert "positive" in text[1]
    assert "The paper's rise with C is confirmed here" in text[1]
    assert "not distinguishable from zero" in text[2]
    assert "cannot be decided" in text[2]
    assert "negative" in text[3]
    assert "Not comparable" in text[4]
    assert classes_table("fig7", classes_rows(1e-3), about).rows[0]["classes"] == 10


def test_table_2_has_excess_and_distinct_images_where_they_are_known():
    about = {"band": "low", "scale": 5.0, "per_class": 40, "dataset": None}
    rows = [row | {"excess": 0.1 - 1e-3 * row["classes"], "distinct_equal": row["ums"]} for row in classes_rows(1e-3)]
    found = classes_table("table2", rows, about)
    assert [row["score"] for row in found.rows] == ["ams", "ums", "ums_equal", "excess", "distinct_equal"]
    assert "Excess: slope -100.00" in found.text
    assert "equal N_G is equal cost" in found.text


def test_two_points_make_no_line():
    with pytest.raises(UserError, match=r"sweep\.classes: a line needs at least three"):
        fit_line(np.array([10.0, 20.0]), np.array([0.1, 0.2]))
