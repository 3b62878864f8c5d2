"""The report: one HTML file that needs no network, no script and no other file."""

import base64
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from side_ray.report import findings, svg, wording
from side_ray.report.control import control_verdict
from side_ray.report.svg import Figure

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("side_ray.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PNG = b"\x89PNG\r\n\x1a\n"
_TINY = 96
"""Images at most this wide are magnified pixel by pixel: smoothing would invent what is compared."""


def render(
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    figures: Sequence[Figure] = (),
    gallery: Sequence[Mapping[str, Any]] = (),
    title: str | None = None,
) -> str:
    """The content of index.html.

    Args:
        metrics: the content of metrics.json.
        config: the resolved config as JSON-able values; `report.title` and `report.gallery` are taken from it.
        figures: those of `side_ray.report.figures.build_figures`.
        gallery: matches to choose from, dicts of `method`, `lambda`, `train_id`, `sample_id`, `value`, `train_png`,
            `sample_png` (bytes) and `label` (or None). Per method the closest `report.gallery` (12) are shown, each
            training image once.
        title: overrides `report.title`.

    Raises:
        ValueError: an image of the gallery is no PNG.
    """
    settings = config.get("report") or {}
    groups: dict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        groups[figure.group].append(figure)
    cut = findings.main_cut(metrics)
    return _ENVIRONMENT.get_template("report.html.j2").render(
        title=title or settings.get("title") or "Memorization audit",
        metrics=metrics,
        headline=findings.headline(metrics),
        explanation=findings.explanation(metrics),
        cut_source=findings.cut_source(metrics),
        facts=_facts(metrics, cut),
        notes=findings.notes(metrics),
        figures=groups,
        gallery=_gallery(metrics, gallery, settings.get("gallery", 12)),
        conditions=_conditions(metrics, cut),
        tables=[_table(metrics, each) for each in findings.cuts(metrics)],
        richness=[each for each in metrics["conditions"] if each.get("richness")],
        richness_band=findings.richness_band(metrics),
        basis=list(_basis(metrics)),
        control_verdict=control_verdict(metrics) if metrics.get("control") else None,
        similarity=_leaves(_without(metrics["similarity"], "bands")),
        provenance=_leaves(_without(metrics.get("provenance") or {}, "config")),
        config=_public(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100)) if config else "",
        w=wording,
        themed=lambda figure: Markup(svg.themed(figure.svg)),  # noqa: S704 (our own SVG, its text escaped by matplotlib)
    )


def _facts(metrics: Mapping[str, Any], cut: findings.Cut | None) -> list[dict[str, Any]]:
    """The key numbers: label, value, and the lines of count and interval that it takes to trust it."""
    best = findings.lead(metrics, cut) if cut else None
    if cut is None or best is None:
        return []
    band = cut.of(best) or {}
    facts = [_share_fact(f"Copies, {wording.condition_name(best)}", band, "ams", best["n"])]
    baseline = findings.best_of(metrics, "random", cut)
    if baseline is not None and baseline is not best:
        facts.append(_share_fact("Copies, Random", cut.of(baseline) or {}, "ams", baseline["n"]))
        facts += _gain(best, baseline, cut)
    if band.get("ums_best_count") is not None:
        size = metrics.get("train_size")
        lines = (
            [f"{wording.percent(band['ums_best_count'] / size)} of {wording.count(size)} training images"]
            if size
            else []
        )
        facts.append(
            {"label": "Distinct images copied", "value": wording.count(band["ums_best_count"]), "lines": lines}
        )
    if band.get("holdout_ams") is not None:
        facts.append(_share_fact("Matches with held-out images", band, "holdout", best["n"]))
    if (richness := best.get("richness")) and cut.kind == "calibrated":
        low, high = richness["chao2"]["ci"]
        lines = ["Chao2, a lower bound", f"95%: {wording.count(low)}–{wording.count(high)}"]
        value = wording.count(richness["chao2"]["value"])
        facts.append({"label": "Distinct images within reach, at least", "value": value, "lines": lines})
    return facts


def _share_fact(label: str, band: Mapping[str, Any], stem: str, n: int) -> dict[str, Any]:
    lines = []
    if band.get(f"{stem}_count") is not None:
        lines.append(f"{wording.count(band[f'{stem}_count'])} of {wording.count(n)} samples")
    if bounds := wording.interval(band.get(f"{stem}_ci")):
        lines.append(f"95%: {bounds}")
    if stem == "ams" and findings.few(band):
        lines.append("fewer than 5 matches: interval is wide")
    return {"label": label, "value": wording.percent(band["ams" if stem == "ams" else f"{stem}_ams"]), "lines": lines}


def _gain(best: Mapping[str, Any], baseline: Mapping[str, Any], cut: findings.Cut) -> Iterator[dict[str, Any]]:
    high, low = (cut.of(best) or {})["ams"], (cut.of(baseline) or {})["ams"]
    if low <= 0:
        return
    test = best.get("mcnemar") or {}
    paired = test.get("p_value") is not None and cut.kind == "calibrated"
    lines = ["ratio of the two shares", *([f"McNemar p {_p_value(test['p_value'])}"] if paired else [])]
    if findings.few(cut.of(best) or {}) or findings.few(cut.of(baseline) or {}):
        lines.append("rests on fewer than 5 matches")
    yield {"label": f"{wording.method_name(best['method'])} over Random", "value": f"{high / low:.1f}×", "lines": lines}


def _p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def _gallery(metrics: Mapping[str, Any], items: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The items as one strip per method, each training image once, closest first."""
    closest_first = sorted(
        items, key=lambda each: each["value"], reverse=not wording.lower_is_closer(metrics["similarity"])
    )
    strips = []
    for method in findings.methods({"conditions": items}):
        distinct: dict[Any, Mapping[str, Any]] = {}
        for item in closest_first:
            if item["method"] == method:
                distinct.setdefault(item["train_id"], item)
        pairs = [_pair(metrics, item) for item in list(distinct.values())[:limit]]
        scales = {pair["scale"] for pair in pairs}
        first = next(iter(distinct.values()))
        title = wording.condition_name(first) if len(scales) == 1 else wording.method_name(method)
        if pairs:
            tiny = all(image["tiny"] for pair in pairs for image in (pair["train"], pair["sample"]))
            strips.append({"title": title, "pairs": pairs, "mixed": len(scales) > 1, "tiny": tiny})
    return strips


def _pair(metrics: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    train, sample, label = _image(item["train_png"]), _image(item["sample_png"]), item.get("label")
    beyond = None
    if metrics.get("cut") is not None:
        lower = wording.lower_is_closer(metrics["similarity"])
        beyond = item["value"] > metrics["cut"] if lower else item["value"] < metrics["cut"]
    return {
        "train": train,
        "sample": sample,
        "train_alt": f"Training image {item['train_id']}" + ("" if label is None else f", label {label}"),
        "sample_alt": f"Extracted image, sample {item['sample_id']}",
        "value": wording.number(item["value"]),
        "train_id": item["train_id"],
        "sample_id": item["sample_id"],
        "scale": wording.scale_text(item.get("lambda")),
        "label": label,
        "beyond": beyond,
    }


def _image(png: bytes) -> dict[str, Any]:
    if not png.startswith(_PNG) or len(png) < 24:
        raise ValueError("an image of the gallery is not a PNG; encode it with side_ray.images.encode_png")
    width, height = struct.unpack(">II", png[16:24])
    uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return {"uri": uri, "width": width, "height": height, "tiny": width <= _TINY}


def _conditions(metrics: Mapping[str, Any], cut: findings.Cut | None) -> dict[str, Any]:
    """The table of what belongs to a condition as a whole: top means, percentile, second opinions."""
    rows = metrics["conditions"]
    tops = list(dict.fromkeys(share for each in rows for share in each.get("top_mean") or {}))
    tops.sort(key=float)
    calibrated = cut is not None and cut.kind == "calibrated"
    return {
        "rows": rows,
        "tops": tops,
        "percentile": any(each.get("percentile_95") is not None for each in rows),
        "diffmemorize": any(each.get("diffmemorize") for each in rows),
        "mcnemar": calibrated and any(each.get("mcnemar") for each in rows),
        "p_value": _p_value,
    }


def _table(metrics: Mapping[str, Any], cut: findings.Cut) -> dict[str, Any]:
    """One table: the conditions as rows at one cut, with only the columns that some condition can fill."""
    rows = [(condition, band) for condition in metrics["conditions"] if (band := cut.of(condition))]
    wanted = {"AMS": "ams", "UMS": "ums", "UMS by best match": "ums_best", "Held-out false matches": "holdout_ams"}
    columns = {heading: key for heading, key in wanted.items() if any(band.get(key) is not None for _, band in rows)}
    # Held-out numbers are named `holdout_count` and `holdout_ci`, beside the share `holdout_ams`.
    stems = {key: key.removesuffix("_ams") for key in columns.values()}
    lift = any(band.get("lift") is not None or band.get("lift_ci") for _, band in rows)
    title = f"{cut.title}: {wording.cut_text(metrics)}" if cut.kind == "calibrated" else cut.title
    name = f"table-{cut.kind}-{len(cut.name)}-" + re.sub(r"[^A-Za-z0-9]", "-", cut.name)
    return {
        "id": name,
        "title": title,
        "rows": rows,
        "columns": columns,
        "stems": stems,
        "lift": lift,
        "few": findings.few,
    }


def _basis(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the scores rest on: the sizes of the sets, and the cut with how well it is known."""
    for key, label in (
        ("train_size", "training images"),
        ("calibration_size", "calibration images"),
        ("holdout_size", "held-out images"),
    ):
        if metrics.get(key) is not None:
            yield label, wording.count(metrics[key])
    if metrics.get("cut") is not None:
        text = wording.cut_text(metrics)
        if metrics.get("cut_n") is not None:
            text += f", set by {wording.count(metrics['cut_n'])} samples"
        if rate := wording.interval(metrics.get("false_match_rate_ci")):
            text += f"; true false-match rate {rate} (95%)"
        yield "calibrated cut", text


def _without(values: Mapping[str, Any], left_out: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != left_out}


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested dicts and lists as (dotted key, text) rows."""
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in _leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, (list, tuple)) and any(isinstance(inner, (Mapping, list, tuple)) for inner in value):
        return [row for place, inner in enumerate(value) for row in _leaves(inner, f"{path}.{place}")]
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(inner) for inner in value)
    return [(path, _public(str(value)))]


def _public(text: str) -> str:
    """The text without the user and password that a URL in it may carry: reports are passed on."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
