"""Conclusions from metrics.json in words: the criterion that is quoted, the headline, and the caveats."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from side_ray.config.extract import SIDE
from side_ray.report import wording
from side_ray.report.verdict import sentences
from side_ray.statistics.changes import LOSSES, missed_losses, remedy
from side_ray.statistics.richness import LEAST_COVERAGE

Metrics = Mapping[str, Any]
Condition = Mapping[str, Any]
FALSE_MATCH_RATE = 0.001
UNINFORMATIVE = 0.05
"""Held-out false-match rate from which a band is no evidence of memorization."""


@dataclass(frozen=True)
class Criterion:
    """One way of counting matches: the calibrated cut, a cumulative band or a band.

    Args:
        kind: calibrated, cumulative or bands, as in metrics.json.
        name: the band's name; `calibrated` for the calibrated cut.
        edges: lowest and highest value that count, None = open end.
    """

    kind: str
    name: str
    edges: tuple[float | None, float | None] | None = None

    def of(self, condition: Condition) -> dict[str, Any] | None:
        """The numbers of a condition by this criterion; None where it has none."""
        if self.kind == "calibrated":
            return condition.get("calibrated")
        return (condition.get(self.kind) or {}).get(self.name)

    def includes(self, values: np.ndarray) -> np.ndarray:
        """Whether values of the similarity, float32, count as matches; bool of the same shape."""
        low, high = self.edges or (None, None)
        inside = np.isfinite(values)
        inside &= True if low is None else values >= np.float32(low)
        inside &= True if high is None else values <= np.float32(high)
        return inside

    @property
    def title(self) -> str:
        if self.kind == "calibrated":
            return wording.KINDS[self.kind]
        return f"{wording.KINDS[self.kind]}, {self.name} ({wording.edges_text(self.edges)})"


@dataclass(frozen=True)
class Note:
    """A caveat: `title` says what, `text` why it matters."""

    title: str
    text: str


def criteria(metrics: Metrics) -> list[Criterion]:
    """Every criterion that some condition has numbers for: the calibrated cut, the cumulative bands, the bands."""
    found = []
    if metrics.get("cut") is not None:
        inclusive = (None, metrics["cut"]) if wording.lower_is_closer(metrics["similarity"]) else (metrics["cut"], None)
        found.append(Criterion("calibrated", "calibrated", inclusive))
    for kind in ("cumulative", "bands"):
        known = (metrics["similarity"].get("bands") or {}).get(kind) or {}
        named = dict.fromkeys(name for condition in metrics["conditions"] for name in condition.get(kind) or {})
        for name in sorted(named, key=list(known).index) if set(named) <= set(known) else named:
            edges = known.get(name)
            found.append(Criterion(kind, name, tuple(edges) if edges is not None else None))
    return [criterion for criterion in found if any(criterion.of(condition) for condition in metrics["conditions"])]


def main_criterion(metrics: Metrics) -> Criterion | None:
    """The criterion that is quoted: the calibrated cut, or without one the strictest cumulative band."""
    found = criteria(metrics)
    if found and found[0].kind == "calibrated":
        return found[0]
    cumulative = [criterion for criterion in found if criterion.kind == "cumulative"] or found
    if not cumulative:
        return None
    if wording.lower_is_closer(metrics["similarity"]):
        return min(
            cumulative,
            key=lambda criterion: (
                float("inf") if not criterion.edges or criterion.edges[1] is None else criterion.edges[1]
            ),
        )
    return max(
        cumulative,
        key=lambda criterion: (
            float("-inf") if not criterion.edges or criterion.edges[0] is None else criterion.edges[0]
        ),
    )


def best_condition(metrics: Metrics, method: str, criterion: Criterion) -> Condition | None:
    """The condition of `method` with the highest AMS by `criterion`, and the smallest λ among equals."""
    mine = [
        condition for condition in metrics["conditions"] if condition["method"] == method and criterion.of(condition)
    ]
    return max(mine, key=lambda each: (criterion.of(each)["ams"], -(each.get("lambda") or 0)), default=None)  # type: ignore[index]


def methods(metrics: Metrics) -> list[str]:
    """The methods of the conditions: td, lora, ti, others in their order, random last."""
    present = dict.fromkeys(condition["method"] for condition in metrics["conditions"])
    known = (*SIDE, "ti", "random")
    return [
        name for name in (*known[:3], *(name for name in present if name not in known), known[3]) if name in present
    ]


def headline_condition(metrics: Metrics, criterion: Criterion) -> Condition | None:
    """The condition that the headline quotes: the one that found most, or without a verdict the best of the first method."""
    if (best := sentences.leading(metrics)) is not None:
        return best
    return next((best for name in methods(metrics) if (best := best_condition(metrics, name, criterion))), None)


def cut_source(metrics: Metrics) -> str:
    """The samples that set the calibrated cut."""
    return str(metrics.get("cut_source") or "the model's own unguided samples")


def train_images(metrics: Metrics) -> int | None:
    """Number of training images, with duplicates that count as one counted once."""
    return metrics.get("train_distinct") or metrics.get("train_size")


def within_reach(metrics: Metrics, condition: Condition) -> tuple[float, float, float] | None:
    """Chao2's lower bound of the images within reach and its 95 % limits, at most the training set.

    None below a sample coverage of `LEAST_COVERAGE`, where the images found say too little about the others.
    """
    found = growth(condition)
    if not found or not found["chao2"] or found.get("coverage", 1.0) < LEAST_COVERAGE:
        return None
    size = train_images(metrics) or float("inf")
    value, (low, high) = found["chao2"]["value"], found["chao2"]["ci"]
    return min(value, size), min(low, size), min(high, size)


def growth(condition: Condition) -> Mapping[str, Any]:
    """How the number of distinct images grows: of the revealed ones, or of all matched ones in a report without a ledger."""
    return condition.get("reach") or condition.get("richness") or {}


def richness_band(metrics: Metrics) -> str:
    """The images that `growth` counts."""
    if metrics.get("ledger"):
        return "every revealed training image within the calibrated cut"
    band = "the calibrated cut" if metrics.get("cut") is not None else "the loosest cumulative band"
    return f"every training image within {band}"


def few_matches(band: Mapping[str, Any]) -> bool:
    return bool(band["ams_count"] < wording.FEW_MATCHES)


def above_false_matches(band: Mapping[str, Any]) -> bool | None:
    """Whether the AMS interval lies above the held-out interval; None without a held-out set."""
    if band.get("holdout_ams") is None:
        return None
    ceiling = band["holdout_ci"][1] if band.get("holdout_ci") else band["holdout_ams"]
    floor = band["ams_ci"][0] if band.get("ams_ci") else band["ams"]
    return bool(floor > ceiling)


def headline(metrics: Metrics) -> str:
    """The verdict in one or two sentences."""
    if not metrics["conditions"]:
        return "No condition has been scored: there is nothing to report yet."
    return sentences.sentence(metrics)


def explanation(metrics: Metrics) -> list[str]:
    """The matches of the condition that found most, beside those with images that the model never saw."""
    criterion = main_criterion(metrics)
    condition = headline_condition(metrics, criterion) if criterion else None
    if criterion is None or condition is None:
        return []
    band, name = criterion.of(condition), wording.condition_name(condition)
    assert band is not None
    matches = f"{wording.count(band['ams_count'])} of {wording.count(condition['n'])}"
    lines = [f"{_within(metrics, criterion)} {name}: {matches} samples match."]
    if band.get("holdout_count") is not None:
        ci = f", 95% interval {wording.interval(band['holdout_ci'])}" if band.get("holdout_ci") else ""
        lines[-1] += (
            f" By the same criterion, {wording.count(band['holdout_count'])} of {wording.count(condition['n'])} of these "
            f"samples ({wording.percent(band['holdout_ams'])}{ci}) match held-out images."
        )
    if condition.get("excess_ci"):
        lines.append(f"{name}: {sentences.excess_text(condition)}.")
        if condition["excess_ci"][0] > 0 and not sentences.claims(metrics):
            lines.append(
                "Of several conditions one may have an interval above 0 by chance: the verdict takes all of them together."
            )
        elif not sentences.established(metrics, condition):
            lines.append("That is no evidence that its matches are more than chance.")
    elif band["ams_count"] and above_false_matches(band) is False:
        lines.append(
            "That is not clearly less than the matches with training images, so it is no evidence of memorization."
        )
    return lines


def _within(metrics: Metrics, criterion: Criterion) -> str:
    """What a match is."""
    if criterion.kind == "calibrated":
        rate = sentences.measured_rate(metrics)
        return (
            f"A sample matches if its best match has {wording.cut_text(metrics)}, set so that "
            f"{wording.one_in(metrics.get('false_match_rate', FALSE_MATCH_RATE))} of {cut_source(metrics)} comes that close to "
            f"calibration images{f'; with unseen images that did not set the cut, {rate} do' if rate else ''}."
        )
    name, edges = wording.similarity_name(metrics["similarity"]), wording.edges_text(criterion.edges)
    return f"There is no calibrated cut, so a sample matches in the strictest band: {name} {edges}."


def notes(metrics: Metrics) -> list[Note]:
    """Caveats about the numbers of this run, the most serious first."""
    criterion = main_criterion(metrics)
    if criterion is None:
        return []
    return [
        *_on_similarities(metrics),
        *_on_control(metrics),
        *on_base(metrics),
        *_on_cut(metrics),
        *_on_counts(metrics, criterion),
        *_on_losses(metrics),
        *_on_reconstructions(metrics),
        *_on_flips(metrics),
        *_on_augmentations(metrics),
        *_on_duplicates(metrics),
        *_on_comparison(metrics, criterion),
    ]


def _on_similarities(metrics: Metrics) -> Iterator[Note]:
    """Where another similarity finds what the first does not."""
    if metrics.get("verdict", {}).get("outcome") == "found":
        return
    for found in metrics.get("descriptors", {}).values():
        if found["verdict"]["outcome"] == "found":
            about = {**metrics, "verdict": found["verdict"]}
            name = wording.described_name(found["similarity"])
            yield Note(f"Found by another similarity, {name}", f"By {name}: {sentences.sentence(about)}")


def _on_control(metrics: Metrics) -> Iterator[Note]:
    if not any(band.get("holdout_ams") is not None for _, _, band in _bands(metrics)):
        yield Note(
            "No held-out control",
            "Nothing here separates memorization from chance resemblance. Score against images that the model never saw.",
        )
    meaningless = []
    for criterion in criteria(metrics):
        rates = [
            rate
            for _, each, band in _bands(metrics)
            if each == criterion and (rate := band.get("holdout_ams")) is not None
        ]
        if rates and max(rates) >= UNINFORMATIVE:
            low, high = wording.percent(min(rates)), wording.percent(max(rates))
            meaningless.append(f"{criterion.title}: {low if low == high else f'{low} to {high}'}")
    if meaningless:
        yield Note(
            "Bands that say nothing about memorization here",
            "In these bands, samples also match images that the model never saw (held-out false-match rate): "
            + "; ".join(meaningless)
            + ".",
        )


def on_base(metrics: Metrics) -> Iterator[Note]:
    """What extrapolation from a base model takes for granted."""
    if any(each["method"] == "base" for each in metrics["conditions"]):
        yield Note(
            "Was the base model trained on these images?",
            "Samples of method base move away from what dpm.base has memorised. If it was trained on the unseen images, training "
            "images match more often for that reason alone; if it was trained on the training images, they are hidden. Then only "
            "the other methods count: leave dpm.base out.",
        )


def _on_cut(metrics: Metrics) -> Iterator[Note]:
    rate = metrics.get("false_match_rate", FALSE_MATCH_RATE)
    if metrics.get("cut") is None:
        yield Note(
            "No calibrated cut",
            f"Measuring a false-match rate of {wording.one_in(rate)} takes at least {1 / rate:,.0f} samples and a calibration "
            "set. This run lacks one of them, so fixed bands are quoted.",
        )
        return
    size = metrics.get("cut_n")
    if size is not None and (size * rate < 4 or not metrics.get("cut_known", True)):
        bounds = wording.interval(metrics.get("false_match_rate_ci"))
        yield Note(
            "The cut is uncertain",
            f"{wording.count(size)} samples set it, of which {max(1, int(size * rate))} may match. A reliable cut takes "
            f"{4 / rate:,.0f} samples or more."
            + (f" The true false-match rate may lie anywhere in {bounds} (95% interval)." if bounds else ""),
        )
    checked = [
        (each["n"], band)
        for each, at, band in _bands(metrics)
        if at.kind == "calibrated" and band.get("holdout_count") is not None
    ]
    yield from on_rate(metrics)
    short, control = [n for n, _ in checked], [band for _, band in checked]
    if short and min(short) * rate < wording.FEW_MATCHES:
        hits = sum(band["holdout_count"] for band in control)
        yield Note(
            "One condition alone cannot confirm the false-match rate",
            f"Of {wording.count(min(short))} samples about {min(short) * rate:g} are expected to match held-out images "
            "at the cut, so none or twice as many do not contradict the rate: read the interval. All conditions together: "
            f"{wording.count(hits)} of {wording.count(sum(short))} ({wording.percent(hits / sum(short))}).",
        )


def on_rate(metrics: Metrics) -> Iterator[Note]:
    """A warning if unseen images are matched at the calibrated cut more or less often than the rate that it was set for."""
    rate = metrics.get("false_match_rate", FALSE_MATCH_RATE)
    intervals = [
        (f"{wording.condition_name(each)}: {wording.percent(share)} ({wording.interval(bounds)})", bounds)
        for each in metrics["conditions"]
        for found in (each.get("crossfit") or {}, each.get("calibrated") or {})
        for share, bounds in (
            (found.get("unseen"), found.get("unseen_ci")),
            (found.get("holdout_ams"), found.get("holdout_ci")),
        )
        if share is not None and bounds
    ]
    beyond = list(dict.fromkeys(text for text, (low, high) in intervals if not low <= rate <= high))
    if beyond:
        yield Note(
            "The cut does not keep its rate on held-out images",
            f"It was set for {wording.one_in(rate)}; the 95% interval excludes that rate here: {'; '.join(beyond)}. Which images "
            "are unseen matters more than how many samples there are: raise data.holdout. The verdict does not depend on it.",
        )


def _on_counts(metrics: Metrics, criterion: Criterion) -> Iterator[Note]:
    thin = [(each, band) for each, at, band in _bands(metrics) if at == criterion and few_matches(band)]
    if thin:
        names = "; ".join(
            f"{wording.condition_name(each)}: {band['ams_count']} of {wording.count(each['n'])}" for each, band in thin
        )
        yield Note(
            "Fewer than 5 matches: interval is wide", f"Too few to rank these conditions at the quoted cut ({names})."
        )
    size, baseline = train_images(metrics), best_condition(metrics, "random", criterion)
    found = (criterion.of(baseline) or {}).get("ums_best_count") if baseline else None
    if size and found is not None and found > size / 2:
        yield Note(
            "Little room above the baseline",
            f"Random alone finds {wording.count(found)} of {wording.count(size)} training images, so no method can find many "
            "more distinct ones. Compare shares of samples (AMS) rather than distinct images.",
        )


def _on_duplicates(metrics: Metrics) -> Iterator[Note]:
    found, left_out = (metrics.get("duplicates") or {}).get("member") or {}, metrics.get("left_out") or {}
    if found.get("exact") or found.get("near"):
        yield Note(
            "Duplicates in the training set",
            f"{wording.count(found['exact'])} training images are exact copies of others and {wording.count(found['near'])} are "
            f"nearly so (the largest group has {wording.count(found['largest'])} images). Each group counts as one image, so all "
            f"numbers are of {wording.count(metrics['train_distinct'])} distinct images.",
        )
    if any(left_out.values()):
        yield Note(
            "Copies of training images among the unseen ones",
            f"{wording.count(left_out['exact'])} exact and {wording.count(left_out['near'])} near copies of training images were "
            "found where the unseen images come from. They were left out, because they would make false matches look frequent.",
        )


def _on_losses(metrics: Metrics) -> Iterator[Note]:
    for name, found in (metrics.get("ceilings") or {}).items():
        if missed := missed_losses(found):
            shares = "; ".join(f"{LOSSES.get(each, each)}, {wording.percent(share)}" for each, share in missed.items())
            where = "cut" if next(iter(found["changes"].values()))["within_cut"] is not None else "strictest band"
            yield Note(
                f"{wording.described_name(descriptor(metrics, name))} misses copies that have lost detail",
                f"Of {wording.count(found['n'])} training images, this share still matches itself at the {where}: {shares}. "
                "Copies with such losses are not counted, so finding none does not say that there is none.",
            )


def descriptor(metrics: Metrics, name: str) -> Mapping[str, Any]:
    """What metrics.json says of the similarity `name`: that of the audit, or one of `score.also`."""
    own: Mapping[str, Any] = metrics["similarity"]
    if own.get("name") == name:
        return own
    other: Mapping[str, Any] = (metrics.get("descriptors") or {}).get(name, {}).get("similarity", {"name": name})
    return other


def _on_reconstructions(metrics: Metrics) -> Iterator[Note]:
    found = metrics.get("reconstructions")
    if not found:
        return
    similarity = metrics["similarity"]
    name, values = wording.similarity_name(similarity), (found["median"], found["farthest_5_percent"])
    within = found["within_cut"]
    seen = "" if within is None else f" {wording.percent(within)} of the reconstructions are within the cut."
    yield Note(
        "The VAE loses detail",
        "A copy that a latent model makes is at best its VAE's reconstruction of the training image. Compared with the images "
        f"themselves, reconstructions of {wording.count(found['n'])} training images have a median {name} of {values[0]:.3g} "
        f"(the farthest 5%: {values[1]:.3g}).{seen} So samples are compared with reconstructions too, of training images and "
        "unseen ones alike, and the closer of the two counts.",
    )


def _on_flips(metrics: Metrics) -> Iterator[Note]:
    found = metrics.get("mirrored")
    if found and found["many"]:
        yield Note(
            "Mirrored copies are not counted",
            f"Of the first {wording.count(found['samples'])} samples, {wording.count(found['missed'])} match a training image "
            f"only when they are mirrored left to right, and {wording.count(found['matches'])} as they are. A model trained with "
            "horizontal flips gives both. Set score.flips to true to compare both orientations, of unseen images too.",
        )
    for change, found in (metrics.get("changed") or {}).items():
        if found["many"]:
            yield Note(
                f"Copies that are {change} are not counted",
                f"Of the first {wording.count(found['samples'])} samples, {wording.count(found['missed'])} match a training "
                f"image only when they are {change}, and {wording.count(found['matches'])} as they are: {remedy(change)}.",
            )


def _on_augmentations(metrics: Metrics) -> Iterator[Note]:
    found = metrics.get("augmentations")
    if found and not found["known"] and not found["seen"]:
        yield Note(
            "Shifted, rotated and cropped copies are not seen",
            "How the training changed its images is not known here. A model trained on random crops, shifts or rotations gives "
            "copies changed in the same way, and distances between pixels miss them: of digits shifted by one pixel, 1% are "
            "still nearest to their original. If it was trained so, compare with a descriptor (score.similarity sscd).",
        )


def _on_comparison(metrics: Metrics, criterion: Criterion) -> Iterator[Note]:
    baseline, best = best_condition(metrics, "random", criterion), headline_condition(metrics, criterion)
    if baseline is None and any(each.get("lambda") for each in metrics["conditions"]):
        yield Note("No Random baseline", "Without plain sampling (λ = 0), the effect of guidance cannot be seen.")
    if best is not None and sum(each["method"] == best["method"] for each in metrics["conditions"]) > 1:
        yield Note(
            "The quoted λ was chosen on the same samples",
            "It is the λ with the most matches among those tried, so its share is slightly overestimated. To confirm it, "
            "choose λ on one half of the samples and measure on the other half.",
        )
    sizes = sorted({each["n"] for each in metrics["conditions"]})
    if len(sizes) > 1:
        listed = ", ".join(wording.count(size) for size in sizes)
        yield Note(
            "Conditions of different size",
            f"UMS falls as N_G grows, so it is not compared across N_G ({listed}). Figures of UMS show the most common N_G only.",
        )
    if baseline is not None:
        floor = criterion.of(baseline)["ams"]  # type: ignore[index]
        below = [
            each
            for each, at, band in _bands(metrics)
            if at == criterion and each["method"] in SIDE and band["ams"] < floor
        ]
        if below:
            scales = ", ".join(wording.scale_text(each.get("lambda")) for each in below)
            yield Note(
                "SIDE below Random",
                f"At λ={scales} guidance found fewer matches than plain sampling ({wording.percent(floor)}).",
            )


def _bands(metrics: Metrics) -> Iterator[tuple[Condition, Criterion, dict[str, Any]]]:
    for criterion in criteria(metrics):
        for condition in metrics["conditions"]:
            if band := criterion.of(condition):
                yield condition, criterion, band
