"""The certificate: the verdict, its key numbers, what was audited, and what that proves. It prints on one page."""

from collections.abc import Iterator, Mapping
from typing import Any

from side_ray.errors import masked
from side_ray.report import findings, wording
from side_ray.report.sections import PageData, PageSection
from side_ray.report.verdict import sentences

_MOST = 200
"""Length up to which a value of the certificate is written out."""


class Result(PageSection):
    heading = contents = "Result"

    def values(self, data: PageData) -> dict[str, Any]:
        metrics = data.metrics
        lines = [sentences.comparison(metrics), sentences.meaning(metrics)] if metrics["conditions"] else []
        return {
            "headline": findings.headline(metrics),
            "explanation": [line for line in lines if line],
            "facts": _facts(metrics),
            "about": [(name, _short(text)) for name, text in _about(metrics, data.config)],
            "scope": sentences.scope(metrics),
            "caveats": [note.title for note in findings.notes(metrics)],
        }


def _short(text: str) -> str:
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def _about(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was audited, by what, and when."""
    known, rows = metrics.get("provenance") or {}, metrics["conditions"]
    weights = {key: digest for key, digest in (known.get("sha256") or {}).items() if key.startswith("dpm/")}
    if known.get("model"):
        yield "Model", f"{known['model']['path']}, commit {known['model']['commit']}"
    yield from (("Model, SHA-256", digest) for digest in weights.values())
    size = f"{wording.count(metrics.get('train_size'))} training images"
    if metrics.get("train_distinct") not in (None, metrics.get("train_size")):
        size += f", {wording.count(metrics['train_distinct'])} distinct"
    path = (config.get("data") or {}).get("path") or (config.get("data") or {}).get("source")
    yield "Training data", f"{size}{f' of {masked(str(path))}' if path else ''}"
    if known.get("pixels"):
        yield "Training data, SHA-256", known["pixels"]
    unseen = sum(metrics.get(name) or 0 for name in ("calibration_size", "holdout_size"))
    yield "Unseen images", wording.count(unseen) if unseen else "none: no control"
    if left := sum(each["found"] - each["read"] for each in metrics.get("sources") or ()):
        yield "Left out", f"{wording.count(left)} files or images, see Provenance"
    if rows:
        sizes = sorted({each["n"] for each in rows})
        each = " or ".join(wording.count(n) for n in sizes)
        yield "Samples", f"{wording.count(sum(row['n'] for row in rows))}: {len(rows)} conditions of {each}"
    if metrics.get("cut") is not None:
        rate = wording.interval(metrics.get("false_match_rate_ci"))
        yield "Cut", wording.cut_text(metrics) + (f"; {rate} of calibration samples come that close" if rate else "")
    yield from _made(known)


def _made(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if known.get("at"):
        yield "Date", known["at"].replace("T", " ").replace("+00:00", " UTC")
    if seconds := sum((known.get("seconds") or {}).values()):
        yield "Duration", wording.duration(seconds)
    if machine := known.get("machine"):
        parts = [(machine["nodes"], "nodes"), (machine["cpus"], "CPUs"), (machine["gpus"], "GPUs")]
        counts = ", ".join(f"{number} {unit if number > 1 else unit[:-1]}" for number, unit in parts if number)
        yield "Hardware", f"{counts} ({machine['cpu']})"
    if (known.get("versions") or {}).get("side-ray"):
        yield "Made by", f"side-ray {known['versions']['side-ray']}"


def _facts(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The key numbers, each with its label and the lines of count and interval that support it."""
    criterion = findings.main_criterion(metrics)
    best = findings.headline_condition(metrics, criterion) if criterion else None
    if criterion is None or best is None:
        return []
    facts = list(_union(metrics))
    band = criterion.of(best) or {}
    word = "Copies" if sentences.established(metrics, best) else "Matches"
    facts.append(_share_fact(f"{word}, {wording.condition_name(best)}", band, "ams", best["n"]))
    baseline = findings.best_condition(metrics, "random", criterion)
    if baseline is not None and baseline is not best:
        word = "Copies" if sentences.established(metrics, baseline) else "Matches"
        facts.append(_share_fact(f"{word}, Random", criterion.of(baseline) or {}, "ams", baseline["n"]))
        if sentences.established(metrics, best) and sentences.above_random(best):
            facts += _gain(best, baseline, criterion)
    if band.get("holdout_ams") is not None:
        facts.append(_share_fact("Matches with held-out images", band, "holdout", best["n"]))
    return facts


def _union(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the verdict counts over all conditions; nothing where it counts nothing."""
    verdict = metrics.get("verdict") or {}
    if verdict.get("outcome") != "found" or verdict.get("reason") != "counted":
        return
    size = findings.train_images(metrics)
    low, high = map(wording.count, verdict["distinct_ci"])
    lines = [f"of {wording.count(size)} training images, all conditions together", f"95%: {low}–{high}"]
    yield {"label": "Revealed", "value": wording.count(verdict["distinct"]), "lines": lines}
    lines = ["of these, within the cut"]
    yield {"label": "Copied", "value": wording.count(verdict["copied"]), "lines": lines}


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
