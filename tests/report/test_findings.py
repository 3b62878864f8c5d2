import pytest

from side_ray.report import findings
from side_ray.report.verdict import sentences
from tests.report.conftest import judged, unjudged


def titles(metrics):
    return [note.title for note in findings.notes(metrics)]


def text_of(metrics, title):
    return next(note.text for note in findings.notes(metrics) if note.title == title)


def test_headline_states_the_verdict(metrics):
    assert findings.headline(metrics) == (
        "Found: 223 of 300 training images are revealed, at a false discovery rate of 5% (95%: 205–251); "
        "77 of them are copied, within the cut."
    )
    few = judged(metrics, reason="few", distinct=1, p_value=0.004)
    assert "permutation test, p = 0.004" in findings.headline(few)
    assert "fewer than the 10 that could be counted" in findings.headline(few)
    none = findings.headline(judged(metrics, "none_found"))
    assert none.startswith("None found")
    assert "3.30% of the training images or more, this audit would have found that with 80% power" in none


@pytest.mark.parametrize(
    ("reason", "words"),
    [("no_unseen", "no unseen"), ("not_alike", "not of one kind"), ("too_small", "20%"), ("captions", "captions of")],
)
def test_headline_says_why_it_cannot_say(metrics, reason, words):
    text = findings.headline(judged(metrics, "cannot_say", reason=reason))
    assert text.startswith("Cannot say")
    assert words in text
    assert text.endswith("To get an answer, raise data.holdout.")


def test_a_report_without_a_verdict_claims_nothing():
    assert "no verdict" in findings.headline(unjudged())
    assert not any("copi" in line for line in findings.explanation(unjudged()))


def test_what_found_most_leads_and_random_among_equals(metrics):
    assert sentences.comparison(metrics) == (
        "Counted alone, most are revealed by SIDE at λ=5: 142 distinct images in 2,000 samples; plain sampling (Random): 80, "
        "OL-TI at λ=1: 40."
    )
    metrics["conditions"][0]["discoveries"]["0.05"]["distinct"] = 142
    assert sentences.comparison(metrics).startswith("Counted alone, most are revealed by plain sampling (Random): 142")


def test_more_in_one_condition_than_in_all_is_explained(metrics):
    told = "All conditions together reveal fewer"
    for revealed, expected in ((141, True), (142, False)):
        metrics["verdict"] = {"outcome": "found", "reason": "counted", "distinct": revealed}
        assert (told in sentences.comparison(metrics)) == expected


def test_a_base_model_is_asked_about(metrics):
    assert not list(findings.on_base(metrics))
    metrics["conditions"][1]["method"] = "base"
    assert "trained on the unseen images" in text_of(metrics, "Was the base model trained on these images?")


def test_distinct_images_are_never_compared_across_sample_sizes(metrics):
    metrics["conditions"][0]["n"] = 4000
    assert "Random" not in sentences.comparison(metrics)
    assert "2,000, 4,000" in text_of(metrics, "Conditions of different size")


def test_unseen_matches_stand_beside_the_nominal_rate(metrics):
    line = findings.explanation(metrics)[0]
    assert "1 in 1,000 of the model's own unguided samples" in line
    assert "3 of 2,000 of these samples (0.15%, 95% interval 0.03–0.44%) match held-out images" in line
    metrics["conditions"][4]["calibrated"] |= {"holdout_ams": 0.01, "holdout_count": 20, "holdout_ci": [0.006, 0.015]}
    assert "SIDE at λ=10: 1.00%" in text_of(metrics, "The cut does not keep its rate on held-out images")


def test_given_samples_are_reported_like_a_method(metrics):
    only = {**metrics["conditions"][1], "method": "given", "lambda": 0.0}
    metrics["conditions"] = [only]
    assert findings.methods(metrics) == ["given"]
    assert (
        sentences.comparison(metrics)
        == "Counted alone, most are revealed by given samples: 44 distinct images in 2,000 samples."
    )


@pytest.mark.parametrize("present", [["given"], ["lora", "td", "random", "base"], ["random", "ti", "given", "td"]])
def test_no_method_is_dropped(present):
    order = findings.methods({"conditions": [{"method": name} for name in present]})
    assert sorted(order) == sorted(present)
    assert order.index("random") == len(order) - 1 if "random" in order else True


def test_explanation_says_when_chance_explains_it_all(metrics):
    assert not any("no evidence" in line for line in findings.explanation(metrics))
    none = judged(metrics, "none_found")
    assert findings.explanation(none)[-1].startswith("That is no evidence")
    none["conditions"] = [{**each, "excess_ci": [0.01, 0.3]} for each in none["conditions"]]
    assert findings.explanation(none)[-1].endswith("the verdict takes all of them together.")
    old = unjudged()
    old["conditions"][4]["calibrated"] |= {"holdout_ams": 0.15, "holdout_count": 300, "holdout_ci": [0.134, 0.166]}
    assert "no evidence of memorization" in findings.explanation(old)[-1]


def test_without_a_cut_the_strictest_band_is_quoted(metrics, without):
    bare = {**without(unjudged(), "calibrated"), "cut": None}
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
    assert "photos: 104 of 2,000 samples match" in findings.explanation(metrics)[0]
    assert "1 in 1,000 of the given samples, one half of them" in findings.explanation(metrics)[0]
    assert "No Random baseline" not in titles(metrics)


@pytest.mark.parametrize(("known", "seen"), [(False, False), (True, False), (False, True)])
def test_blindness_to_augmentations_is_said_where_nobody_knows_the_training(metrics, known, seen):
    metrics["augmentations"] = {"known": known, "used": [], "seen": seen}
    told = "Shifted, rotated and cropped copies are not seen" in titles(metrics)
    assert told == (not known and not seen)


def test_nothing_scored_has_nothing_to_note(metrics):
    metrics["conditions"] = []
    assert findings.notes(metrics) == []
    assert findings.explanation(metrics) == []
    assert "nothing to report" in findings.headline(metrics)


def test_images_within_reach_are_never_more_than_the_training_set_and_withheld_at_low_coverage(metrics):
    best = metrics["conditions"][3]
    best["richness"] |= {"coverage": 0.8, "chao2": {"value": 320.0, "ci": [250.0, 500.0]}}
    assert findings.within_reach(metrics, best) == (300, 250, 300)
    best["richness"]["coverage"] = 0.49
    assert findings.within_reach(metrics, best) is None
