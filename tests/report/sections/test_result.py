from side_ray.report.page import render


def test_headline_and_key_numbers_carry_counts_and_intervals(page):
    text = page.text()
    assert "Found: 223 of 300 training images are revealed" in text
    assert "Copies, SIDE at λ=5" in text
    for words in (
        "294 of 2,000 samples",
        "95%: 13.2–16.3%",
        "2.8×",
        "paired excess: p < 0.0001",
        "3 of 2,000 samples",
        "95%: 0.03–0.44%",
    ):
        assert words in text
    assert "nL2 ≤ 0.602" in text
    assert "1 in 1,000" in text


def test_ratio_that_rests_on_few_matches_says_so(metrics, config, outline, page):
    assert "rests on fewer than 5" not in page.text("span")
    metrics["conditions"][0]["calibrated"] |= {"ams": 0.0015, "ams_count": 3}
    assert "rests on fewer than 5 matches" in outline(render(metrics, config)).text("span")
