"""Tables 1, 3 and 4 and Figure 4, fed with the paper's own numbers and with numbers whose outcome is known."""

import pytest

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
    assert "Not comparable: the percentages. digits is not one of the paper's data sets" in found.text
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


def weighed(metrics: dict, paid: bool = True) -> dict:
    """With what the conditions show beyond chance."""
    for place, each in enumerate(metrics["conditions"]):
        share = each["bands"]["low"]["ams"]
        each |= {"excess": share / 2, "excess_ci": [share / 4, share]}
        each |= {"discoveries": {"0.05": {"samples": 10, "distinct": 100 + place}}}
        if paid:
            each["equal_cost"] = {"per_sample": 1.0 + place, "samples": 1000 // (1 + place), "distinct": 90 - place}
    return metrics


def test_what_is_beyond_chance_stands_beside_the_paper_s_scores():
    found = table1(weighed(metrics_with(SHARES)))
    side = where(found.rows, method="td", band="mid")[0]
    assert (side["excess"], side["distinct"], side["paid_distinct"]) == pytest.approx((0.55, 103.5, 86.5))
    assert (side["excess_low"], side["excess_high"]) == pytest.approx((0.25, 1.2))
    assert "AMS and UMS count matches by chance too" in found.text
    assert "1,000 samples each: Random 100, OL-TI 101, SIDE 104" in found.text
    assert "Random 90 in 1,000" in found.text
    assert "FLOPs" not in table1(weighed(metrics_with(SHARES), paid=False)).text
    assert "by chance" not in table1(metrics_with(SHARES)).text


def test_figure_4_has_the_scales_beyond_chance():
    found = figure4(weighed(metrics_with(SHARES)))
    excess = where(found.rows, score="excess")
    assert [row["lambda"] for row in excess] == [0, 2, 5, 9]
    assert [row["lambda"] for row in excess if row["best"]] == [9]
    assert [row["value"] for row in where(found.rows, score="distinct")] == [100, 102, 103, 104]
    assert [row["lambda"] for row in where(found.rows, score="paid_distinct") if row["best"]] == [0]
    assert table4(weighed(metrics_with(SHARES))).rows[0]["distinct"] == 100
