from side_ray.report.page import render


def test_headline_and_key_numbers_carry_counts_and_intervals(page):
    text = page.text()
    assert "SIDE at λ=10 reproduces 16.2% of its samples as copies of 134 distinct training images out of 300" in text
    assert "plain sampling (Random) reproduces 5.20%, 80 distinct." in text
    for words in (
        "324 of 2,000 samples",
        "95%: 14.6–17.9%",
        "3.1×",
        "McNemar p < 0.0001",
        "0 of 2,000 samples",
        "95%: 0–0.18%",
    ):
        assert words in text
    assert "nL2 ≤ 0.602" in text
    assert "1 in 1,000" in text


def test_ratio_that_rests_on_few_matches_says_so(metrics, config, outline, page):
    assert "rests on fewer than 5" not in page.text("span")
    metrics["conditions"][0]["calibrated"] |= {"ams": 0.0015, "ams_count": 3}
    assert "rests on fewer than 5 matches" in outline(render(metrics, config)).text("span")
