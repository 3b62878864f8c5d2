from side_ray.report.sections import PageData
from side_ray.report.sections.conditions import Conditions


def test_table_of_the_calibrated_cut_shows_every_condition(html, outline, metrics):
    table = next(part for part in html.split("<table")[1:] if "Calibrated cut" in part.split("</caption>")[0])
    rows = [
        outline(f"<table{row}").text("th", "td", "b", "span", "abbr")
        for row in table.split("</table>")[0].split("<tr")[2:]
    ]
    assert len(rows) == len(metrics["conditions"])
    assert "Random 0 2,000 5.20% 104 4.27–6.27% 4.80% 96" in rows[0]
    assert rows[0].endswith("26.0× 11.6–78.0")
    assert "14.7% 294" in rows[3]
    assert "0.15% 3 0.03–0.44%" in rows[3]
    assert ["†" in row for row in rows] == [False] * 6 + [True]


def test_lift_without_a_held_out_match_gives_its_lower_bound(page):
    assert "over 64.8" in page.text("span")


def test_a_table_of_the_same_numbers_stands_once(metrics):
    titles = [each["title"] for each in Conditions().values(PageData(metrics))["tables"]]
    assert titles[3] == "Cumulative, high (≤ 1.35); the same numbers: banded, high (≤ 1.35)"
    assert len(titles) == 6
    bands = metrics["conditions"][2]["bands"]
    bands["high"] = bands["high"] | {"ums_count": 999}
    assert len(Conditions().values(PageData(metrics))["tables"]) == 7


def test_only_the_calibrated_cut_is_unfolded_and_printed(html):
    start = html.index('<section id="conditions"')
    above, _, below = html[start:].partition('<details class="more">')
    assert above.count("<caption") == 1
    assert below.partition("</section>")[0].count("<caption") == 7
