import pytest

from side_ray.report import findings


def titles(metrics):
    return [note.title for note in findings.notes(metrics)]


def text_of(metrics, title):
    return next(note.text for note in findings.notes(metrics) if note.title == title)


def test_headline_quotes_the_condition_with_most_copies(metrics):
    assert findings.headline(metrics) == (
        "SIDE at λ=10 reproduces 16.2% of its samples as copies of 134 distinct training images out of 300; "
        "plain sampling (Random) reproduces 5.20%, 80 distinct."
    )


def test_headline_of_equals_takes_the_smaller_scale(metrics):
    metrics["conditions"][4]["calibrated"]["ams"] = metrics["conditions"][3]["calibrated"]["ams"]
    assert findings.headline(metrics).startswith("SIDE at λ=5 ")


def test_headline_never_compares_distinct_images_across_sample_sizes(metrics):
    metrics["conditions"][0]["n"] = 4000
    assert findings.headline(metrics).endswith("plain sampling (Random) reproduces 5.20%.")
    assert "2,000, 4,000" in text_of(metrics, "Conditions of different size")


def test_headline_falls_back_to_ol_ti_then_random(metrics):
    metrics["conditions"] = [each for each in metrics["conditions"] if each["method"] != "td"]
    assert findings.headline(metrics).startswith("OL-TI at λ=1 reproduces 2.50%")
    metrics["conditions"] = metrics["conditions"][:1]
    rest = "reproduces 5.20% of its samples as copies of 80 distinct training images out of 300."
    assert findings.headline(metrics) == f"Plain sampling (Random) {rest}"


def test_given_samples_are_reported_like_a_method(metrics):
    only = {**metrics["conditions"][1], "method": "given", "lambda": 0.0}
    metrics["conditions"] = [only]
    assert findings.methods(metrics) == ["given"]
    assert (
        findings.headline(metrics) == "2.90% of the given samples are copies of 44 distinct training images out of 300."
    )


@pytest.mark.parametrize("present", [["given"], ["lora", "td", "random", "base"], ["random", "ti", "given", "td"]])
def test_no_method_is_dropped(present):
    order = findings.methods({"conditions": [{"method": name} for name in present]})
    assert sorted(order) == sorted(present)
    assert order.index("random") == len(order) - 1 if "random" in order else True


def test_headline_without_any_copy_gives_the_upper_bound(metrics):
    metrics["conditions"] = metrics["conditions"][:1]
    metrics["conditions"][0]["calibrated"] |= {
        "ams": 0.0,
        "ams_count": 0,
        "ams_ci": [0.0, 0.00184],
        "ums_best": 0.0,
        "ums_best_count": 0,
    }
    assert (
        findings.headline(metrics)
        == "Plain sampling (Random): none of 2,000 samples is a copy, at most 0.18% with 95% confidence."
    )


def test_explanation_says_when_false_matches_explain_it_all(metrics):
    assert not any("no evidence" in line for line in findings.explanation(metrics))
    best = metrics["conditions"][4]["calibrated"]
    best |= {"holdout_ams": 0.15, "holdout_count": 300, "holdout_ci": [0.134, 0.166]}
    assert "no evidence of memorization" in findings.explanation(metrics)[-1]


def test_without_a_cut_the_strictest_band_is_quoted(metrics, without):
    bare = {**without(metrics, "calibrated"), "cut": None}
    assert findings.main_criterion(bare).name == "high"
    assert "strictest band: nL2 ≤ 1.35" in findings.explanation(bare)[0]
    assert "at least 1,000 samples" in text_of(bare, "No calibrated cut")


def test_strictest_band_of_a_cosine_is_the_highest(metrics, without):
    bands = {"cumulative": {"low": [0.4, None], "mid": [0.5, None], "high": [0.6, None]}, "bands": {}}
    cosine = {**without(metrics, "calibrated"), "cut": None, "similarity": {"name": "sscd", "bands": bands}}
    assert findings.main_criterion(cosine).edges == (0.6, None)


def test_cuts_come_in_the_order_of_the_metrics(metrics):
    metrics["conditions"][0]["cumulative"] = dict(reversed(metrics["conditions"][0]["cumulative"].items()))
    assert [(each.kind, each.name) for each in findings.criteria(metrics)] == [
        ("calibrated", "calibrated"),
        *[(kind, name) for kind in ("cumulative", "bands") for name in ("low", "mid", "high")],
    ]


def test_bands_that_unseen_images_meet_as_well_are_named(metrics):
    text = text_of(metrics, "Bands that say nothing about memorization here")
    assert "Cumulative, low (≤ 1.5): 97.8%" in text
    assert "Banded, low" not in text
    assert "Calibrated" not in text


def test_few_matches_are_named_with_their_counts(metrics):
    assert "OL-TI at λ=5: 4 of 2,000" in text_of(metrics, "Fewer than 5 matches: interval is wide")
    metrics["conditions"][-1]["calibrated"]["ams_count"] = 5
    assert "Fewer than 5 matches: interval is wide" not in titles(metrics)


@pytest.mark.parametrize(("size", "uncertain"), [(3999, True), (4000, False), (None, False)])
def test_small_synthetic_set_makes_the_cut_uncertain(metrics, size, uncertain):
    metrics["cut_n"] = size
    assert ("The cut is uncertain" in titles(metrics)) is uncertain


def test_uncertain_cut_gives_the_rates_that_it_may_have(metrics):
    metrics |= {"cut_n": 600, "cut_known": False, "false_match_rate_ci": [0.00004, 0.0061]}
    text = text_of(metrics, "The cut is uncertain")
    assert "600 samples set it, of which 1 may match. A reliable cut takes 4,000 samples or more" in text
    assert "0.00–0.61% (95% interval)" in text


def test_sample_size_too_small_for_the_false_match_rate(metrics):
    title = "One condition alone cannot confirm the false-match rate"
    assert "15 of 14,000 (0.11%)" in text_of(metrics, title)
    for condition in metrics["conditions"]:
        condition["n"] = 5000
    assert title not in titles(metrics)


def test_missing_baseline_saturation_selection_and_losses_are_said(metrics):
    assert "SIDE below Random" in titles(metrics)
    assert "λ=0.5" in text_of(metrics, "SIDE below Random")
    assert "The quoted λ was chosen on the same samples" in titles(metrics)
    metrics["conditions"][0]["calibrated"]["ums_best_count"] = 226
    assert "226 of 300" in text_of(metrics, "Little room above the baseline")
    metrics["conditions"] = metrics["conditions"][4:5]
    assert "No Random baseline" in titles(metrics)
    assert not {"SIDE below Random", "The quoted λ was chosen on the same samples"} & set(titles(metrics))


def test_samples_without_a_model_are_spoken_of_as_such(metrics):
    metrics["conditions"] = [{**metrics["conditions"][0], "method": "photos", "lambda": None}]
    metrics["cut_source"] = "the given samples, one half of them"
    assert findings.headline(metrics).startswith(
        "5.20% of the samples (photos) are copies of 80 distinct training images"
    )
    assert "1 in 1,000 of the given samples, one half of them" in findings.explanation(metrics)[0]
    assert "No Random baseline" not in titles(metrics)


def test_nothing_scored_has_nothing_to_note(metrics):
    metrics["conditions"] = []
    assert findings.notes(metrics) == []
    assert findings.explanation(metrics) == []
    assert "nothing to report" in findings.headline(metrics)
