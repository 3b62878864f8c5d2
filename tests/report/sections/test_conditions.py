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
