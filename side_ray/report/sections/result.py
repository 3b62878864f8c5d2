"""The headline, its key numbers, and the caveats."""

from collections.abc import Iterator, Mapping
from typing import Any

from side_ray.report import findings, wording
from side_ray.report.sections import PageData, PageSection
from side_ray.report.verdict import sentences


class Result(PageSection):
    heading = contents = "Result"

    def values(self, data: PageData) -> dict[str, Any]:
        return {
            "headline": findings.headline(data.metrics),
            "explanation": findings.explanation(data.metrics),
            "facts": _facts(data.metrics),
            "notes": findings.notes(data.metrics),
        }


def _facts(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The key numbers, each with its label and the lines of count and interval that support it."""
    criterion = findings.main_criterion(metrics)
    best = findings.headline_condition(metrics, criterion) if criterion else None
    if criterion is None or best is None:
        return []
    band = criterion.of(best) or {}
    word = "Copies" if sentences.established(metrics, best) else "Matches"
    facts = [_share_fact(f"{word}, {wording.condition_name(best)}", band, "ams", best["n"])]
    baseline = findings.best_condition(metrics, "random", criterion)
    if baseline is not None and baseline is not best:
        word = "Copies" if sentences.established(metrics, baseline) else "Matches"
        facts.append(_share_fact(f"{word}, Random", criterion.of(baseline) or {}, "ams", baseline["n"]))
        if sentences.established(metrics, best) and sentences.above_random(best):
            facts += _gain(best, baseline, criterion)
    if band.get("ums_best_count") is not None:
        size = findings.train_images(metrics)
        lines = (
            [f"{wording.percent(band['ums_best_count'] / size)} of {wording.count(size)} training images"]
            if size
            else []
        )
        facts.append(
            {"label": "Distinct images matched", "value": wording.count(band["ums_best_count"]), "lines": lines}
        )
    if band.get("holdout_ams") is not None:
        facts.append(_share_fact("Matches with held-out images", band, "holdout", best["n"]))
    reach = findings.within_reach(metrics, best) if criterion.kind == "calibrated" else None
    if reach is not None and sentences.established(metrics, best):
        value, low, high = map(wording.count, reach)
        lines = ["Chao2, a lower bound", f"95%: {low}–{high}"]
        facts.append({"label": "Distinct images within reach, at least", "value": value, "lines": lines})
    return facts


def _share_fact(label: str, band: Mapping[str, Any], stem: str, n: int) -> dict[str, Any]:
    lines = []
    if band.get(f"{stem}_count") is not None:
        lines.append(f"{wording.count(band[f'{stem}_count'])} of {wording.count(n)} samples")
    if bounds := wording.interval(band.get(f"{stem}_ci")):
        lines.append(f"95%: {bounds}")
    if stem == "ams" and findings.few_matches(band):
        lines.append("fewer than 5 matches: interval is wide")
    return {"label": label, "value": wording.percent(band["ams" if stem == "ams" else f"{stem}_ams"]), "lines": lines}


def _gain(
    best: Mapping[str, Any], baseline: Mapping[str, Any], criterion: findings.Criterion
) -> Iterator[dict[str, Any]]:
    high, low = (criterion.of(best) or {})["ams"], (criterion.of(baseline) or {})["ams"]
    if low <= 0:
        return
    lines = ["ratio of the two shares", f"paired excess: p {wording.p_value(best['excess_over_random']['p_value'])}"]
    if findings.few_matches(criterion.of(best) or {}) or findings.few_matches(criterion.of(baseline) or {}):
        lines.append("rests on fewer than 5 matches")
    yield {
        "label": f"{wording.method_name(best['method'])} over Random",
        "value": wording.ratio(high / low),
        "lines": lines,
    }
