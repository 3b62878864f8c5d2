"""The recomputed tables, fed with the paper's own numbers and with numbers whose outcome is known."""

import numpy as np
import pytest
from scipy import stats

from side_ray.errors import UserError
from side_ray.report.paper.classes import classes_table, fit_line
from side_ray.report.paper.printed import printed, scales_of_table4, where
from side_ray.report.paper.scales import best_scales, figure4, rows_of, table1, table1_rows, table3, table3_rows, table4


def test_table_4_gives_the_paper_s_table_1():
    found = {row["method"]: row for row in table1_rows(scales_of_table4(), ["mid"])}
    for row in where(printed("table1"), dataset="CelebA-HQ-FI", band="mid"):
        if row["method"] != "ti":
            mine = found[row["method"]]
            assert (mine["ams"], mine["ums"]) == pytest.approx((row["ams"], row["ums"]), abs=0.0005)
    assert found["td"]["lambdas"] == "5 6 7 8 9"


def test_table_4_gives_the_paper_s_table_3():
    found = {row["method"]: row for row in table3_rows(scales_of_table4(), larger_is_closer=True)}
    for row in where(printed("table3"), dataset="CelebA-HQ-FI"):
        mine = found[row["method"]]
        shared = [name for name in row if name.startswith("top_") and name in mine]
        assert shared == ["top_0.1", "top_0.5", "top_1", "top_5"]
        assert [mine[name] for name in shared] == [row[name] for name in shared]


def test_table_4_has_other_best_scales_than_figure_4_says():
    found = {row["score"]: row["lambda"] for row in best_scales(scales_of_table4(), ["mid"])}
    assert found == {"ams": 15, "ums": 9}
    assert where(printed("fig4"), band="mid") == [{"band": "mid", "ams": 13, "ums": 13}]


def test_every_printed_table_is_whole():
    assert len(printed("table1")) == 27
    assert [row["lambda"] for row in printed("table4")] == list(range(51))
    assert {row["score"]: row["correlation"] for row in printed("table2")} == {"ams": 0.80, "ums": 0.70}
    for row in printed("table2"):
        assert row["correlation"] ** 2 == pytest.approx(row["r2"], abs=0.01)


def metrics_with(shares: dict[tuple[str, float], float], source: str = "celeba_hq", name: str = "sscd") -> dict:
    """A metrics file whose conditions have the given AMS in every band, half of it as UMS."""

    def band(share: float) -> dict:
        entry = {"ams": share, "ams_count": round(1000 * share), "ams_ci": [0.9 * share, 1.1 * share]}
        return entry | {"ums": share / 2, "ums_count": round(500 * share), "ums_ci": [0.4 * share, 0.6 * share]}

    conditions = [
        {
            "method": method,
            "lambda": scale,
            "n": 1000,
            "bands": {name: band(share) for name in ("low", "mid", "high")},
            "top_mean": {"0.1": 0.6 + share, "1": 0.5 + share},
        }
        for (method, scale), share in shares.items()
    ]
    bands = {"low": [0.4, 0.5], "mid": [0.5, 0.6], "high": [0.6, 1.0]}
    return {
        "similarity": {"name": name, "bands": {"bands": bands}},
        "conditions": conditions,
        "provenance": {"config": {"data": {"source": source}}},
    }


SHARES = {("random", 0.0): 0.006, ("ti", 5.0): 0.001, ("td", 2.0): 0.007, ("td", 5.0): 0.01, ("td", 9.0): 0.012}


def test_table_1_says_where_it_agrees():
    found = table1(metrics_with(SHARES))
    side = where(found.rows, method="td", band="mid")[0]
    assert side["ams"] == pytest.approx(1.1)
    assert "The paper's order (SIDE > Random > OL-TI) holds here. SIDE / Random: 1.83 (paper 1.87)." in found.text
    assert "SIDE, mid: AMS 1.100 (paper 1.115, inside the 95 % intervals)" in found.text
    assert "OL-TI, mid: AMS 0.100 (paper 0.075, outside the 95 % intervals)" in found.text
    assert found.svg.startswith("<svg")


def test_table_1_says_where_it_does_not_agree_and_what_cannot_be_compared():
    found = table1(metrics_with({**SHARES, ("random", 0.0): 0.02}, source="digits"))
    assert "does not hold here" in found.text
    assert "Cannot be compared: the percentages themselves. digits is none of the paper's data sets" in found.text
    assert "inside the 95 % intervals" not in found.text


def test_without_the_paper_s_scales_the_mean_is_over_all_and_says_so():
    found = table1(metrics_with({("random", 0.0): 0.006, ("td", 2.0): 0.01, ("td", 3.0): 0.02}))
    assert where(found.rows, method="td", band="low")[0]["ams"] == pytest.approx(1.5)
    assert "SIDE over λ = 2 3" in found.text


def test_table_3_knows_which_way_is_closer():
    farther = table3(metrics_with(SHARES, source="digits", name="nl2"))
    assert farther.rows[1]["top_1"] == pytest.approx(0.51)  # the smallest over λ = 5 and 9
    assert "Here it is for: none." in farther.text
    assert "Here it is for: all." in table3(metrics_with(SHARES)).text


def test_table_4_and_figure_4_name_the_best_scale():
    metrics = metrics_with({**SHARES, ("td", 20.0): 0.002})
    assert "Best λ for mid AMS: 9 (1.200 %, 2.00 × Random)" in table4(metrics).text
    assert [row["lambda"] for row in table4(metrics).rows] == [0, 2, 5, 9, 20]
    found = figure4(metrics)
    assert "Here the best λ lies inside the grid for: low AMS, low UMS" in found.text
    assert {row["lambda"] for row in found.rows if row["best"]} == {9.0}
    assert len(rows_of(metrics)) == 6


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
    assert "that it rises with C agrees here" in text[1]
    assert "not told from zero" in text[2]
    assert "cannot be told" in text[2]
    assert "negative" in text[3]
    assert "Cannot be compared" in text[4]
    assert classes_table("fig7", classes_rows(1e-3), about).rows[0]["classes"] == 10


def test_two_points_make_no_line():
    with pytest.raises(UserError, match=r"sweep\.classes: a line needs at least three"):
        fit_line(np.array([10.0, 20.0]), np.array([0.1, 0.2]))
