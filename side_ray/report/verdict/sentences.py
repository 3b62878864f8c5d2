"""The sentences that state the verdict, and whether a page may speak of copies."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import wording

Metrics = Mapping[str, Any]
Condition = Mapping[str, Any]
FDR = "0.05"
"""The false discovery rate at which conditions are compared."""


def claims(metrics: Metrics) -> bool:
    """Whether the verdict is that training images were found: only then does a page speak of copies."""
    return bool((metrics.get("verdict") or {}).get("outcome") == "found")


def established(metrics: Metrics, condition: Condition) -> bool:
    """Whether this condition's matches are more than chance: the whole interval of its excess is above 0."""
    bounds = condition.get("excess_ci")
    return claims(metrics) and bounds is not None and bool(bounds[0] > 0)


def above_random(condition: Condition) -> bool:
    """Whether the paired excess over Random is established."""
    difference = condition.get("excess_over_random")
    return bool(difference and difference["ci"][0] > 0)


def distinct(condition: Condition) -> int | None:
    """Distinct training images that the condition alone reveals at `FDR`; None in a report without a verdict."""
    found: int | None = ((condition.get("discoveries") or {}).get(FDR) or {}).get("distinct")
    return found


def leading(metrics: Metrics) -> Condition | None:
    """The condition that revealed most distinct images, Random first among equals; None in a report without a verdict."""
    known = [each for each in metrics["conditions"] if distinct(each) is not None]
    return max(known, key=lambda each: (distinct(each), each["method"] == "random", each["excess"]), default=None)


def sentence(metrics: Metrics) -> str:
    """The verdict in one or two sentences."""
    verdict = metrics.get("verdict")
    if verdict is None:
        return "This report has no verdict: make it again with this version."
    if verdict["outcome"] == "found":
        return _found(metrics, verdict)
    if verdict["outcome"] == "none_found":
        share = wording.percent(verdict["detectable"])
        return (
            "None found: the samples come no closer to training images than to images that the model never saw. If it had "
            f"memorised {share} of the training images or more, this audit would have found that with 80% power."
        )
    return f"Cannot say: {_WHY[verdict['reason']].format(limit='20%')}. To get an answer, {verdict['remedy']}."


OUTCOMES = {"found": "found", "none_found": "none found", "cannot_say": "cannot say"}
"""In words."""
_WHY = {
    "no_unseen": "there are no unseen images to compare with, so nothing separates memorization from chance",
    "not_alike": "the samples come closer to unseen images than to training images, so the two are not of one kind",
    "too_small": "with so few images and samples, even {limit} of the training images, memorised, would go unnoticed",
    "same": "to this similarity, unseen images are as close to samples as an exact copy would be",
    "captions": "all samples were drawn with captions of training images, which alone bring them closer to these images",
}


def _found(metrics: Metrics, verdict: Mapping[str, Any]) -> str:
    size = wording.count(metrics.get("train_distinct") or metrics["train_size"])
    if verdict["reason"] == "few":
        return (
            f"Found: samples come closer to a few of {size} training images than chance allows (permutation test, p "
            f"{wording.p_value(verdict['p_value'])}). They are fewer than the {verdict['smallest_claimable']} that could be "
            f"counted at a false discovery rate of {100 * verdict['fdr']:g}%."
        )
    low, high = verdict["distinct_ci"]
    return (
        f"Found: {wording.count(verdict['distinct'])} of {size} training images are revealed, at a false discovery rate of "
        f"{100 * verdict['fdr']:g}% (95%: {wording.count(low)}–{wording.count(high)}); "
        f"{wording.count(verdict['copied'])} of them are copied, within the cut."
    )


def comparison(metrics: Metrics) -> str:
    """How many images the leading condition revealed, beside Random; empty where the verdict claims nothing."""
    best = leading(metrics)
    if best is None or not claims(metrics) or not distinct(best):
        return ""
    found = wording.count(distinct(best))
    text = f"Counted alone, most are revealed by {_name(best)}: {found} distinct images in {wording.count(best['n'])} samples"
    others = [each for each in metrics["conditions"] if each["method"] == "random" and each is not best]
    guided = [
        each
        for each in metrics["conditions"]
        if each["method"] not in ("random", best["method"]) and each["n"] == best["n"]
    ]
    guided.sort(key=lambda each: -(distinct(each) or 0))
    beside = [each for each in [*others, *guided[:1]] if each["n"] == best["n"]]
    if beside:
        text += "; " + ", ".join(f"{_name(each)}: {wording.count(distinct(each))}" for each in beside)
    found_by_all = (metrics.get("verdict") or {}).get("distinct") or 0
    if (distinct(best) or 0) > found_by_all > 0:
        text += ". All conditions together reveal fewer, because unseen images, too, then have more chances to match"
    return f"{text}."


def scope(metrics: Metrics) -> tuple[str, str]:
    """What the verdict shows, and what it does not."""
    outcome = (metrics.get("verdict") or {}).get("outcome")
    beyond = (
        "Other prompts, samplers or attacks, and more samples, may extract other images. It says nothing about who is on "
        "an image, and it is no legal opinion."
    )
    if outcome == "found":
        return (
            "The model reproduces some of the images that it was trained on: unseen images of the same kind, compared in the "
            "same way, are matched far less. The pairs below can be checked by eye.",
            f"That the other training images are safe. {beyond}",
        )
    if outcome == "none_found":
        return (
            "With these samples, training images are matched no more than unseen ones, in an audit that would have found a "
            f"memorised share of {wording.percent(metrics['verdict']['detectable'])} with 80% power.",
            f"That the model has memorised nothing: a smaller share would have gone unnoticed. {beyond}",
        )
    return "Nothing either way.", f"That the model has memorised nothing. {beyond}"


def meaning(metrics: Metrics) -> str:
    """What revealed and copied mean; empty where the verdict counts nothing."""
    if (metrics.get("verdict") or {}).get("reason") != "counted":
        return ""
    return (
        "Revealed: the samples come closer to the image than to unseen ones by more than chance allows. Copied: so close that "
        "a person sees the same picture."
    )


def _name(condition: Condition) -> str:
    name = wording.condition_name(condition)
    return {"random": "plain sampling (Random)", "given": "given samples"}.get(condition["method"], name)


def measured_rate(metrics: Metrics) -> str:
    """The rate at which plain or given samples match unseen images that did not set the cut; empty where it was not measured."""
    plain = [each for each in metrics["conditions"] if each["method"] in ("random", "given") and each.get("crossfit")]
    if not plain:
        return ""
    found = plain[0]["crossfit"]
    return f"{wording.percent(found['unseen'])} (95% interval over images {wording.interval(found['unseen_ci'])})"


def privacy_loss(metrics: Metrics) -> str:
    """The lower bound on ε in one sentence; empty where there is none."""
    found = metrics.get("privacy") or {}
    if found.get("epsilon") is None:
        return ""
    if found["epsilon"] > 0:
        return f"The training is not ε-differentially private for any ε below {found['epsilon']:.2f} (95% confidence)."
    return "The scores show no privacy loss: the bound is 0. That does not mean that the training is private."


def excess_text(condition: Condition) -> str:
    """`excess 4.6% (95%: 3.9% to 5.3%): 4.9% of the samples match training images, …`."""
    low, high = condition["excess_ci"]
    return (
        f"excess {_signed(condition['excess'])} (95%: {_signed(max(low, -1.0))} to {_signed(min(high, 1.0))}): "
        f"{wording.percent(condition['excess_member_share'])} of the samples match training images and "
        f"{wording.percent(condition['excess_unseen_share'])} match unseen images, of as many and with one normalizer"
    )


def _signed(share: float) -> str:
    return ("−" if share < 0 else "") + wording.percent(abs(share))
