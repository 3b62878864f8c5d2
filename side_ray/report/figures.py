"""The figures of a report as SVG: scores over λ, distributions of best matches, rarefaction, and those of `verdict`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from side_ray.report import findings, svg, wording
from side_ray.report.svg import Figure, slug
from side_ray.report.training import training_figures
from side_ray.report.verdict.found_figures import found_figures
from side_ray.report.verdict.rate_figure import cut_figures, rate_figures

_SHARES = {
    "ams": "AMS (% of samples)",
    "ums": "UMS (% of samples)",
    "ums_best": "UMS best (% of samples)",
}


def build_figures(
    metrics: Mapping[str, Any],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    values: Sequence[Mapping[str, Any]] = (),
) -> list[Figure]:
    """Every figure for which the data are there.

    Args:
        metrics: the content of metrics.json.
        curves: training curves: dicts of `stage` with `steps` and `loss`, or `t` and `accuracy` (0…1), `chance`
            optional, or the `sizes` of clusters and which are `kept`.
        values: dicts of `method`, `lambda`, `best` (float [N_G], each sample's best value against the training set) and
            `holdout_best` (the same against the held-out set, or None).
    """
    made = [
        *_lambda_figures(metrics),
        *_distributions(metrics, values),
        *_rarefaction(metrics),
        *rate_figures(metrics),
        *cut_figures(metrics, values),
        *found_figures(metrics),
        *training_figures(curves),
    ]
    return [figure for figure in made if figure is not None]


def _lambda_figures(metrics: Mapping[str, Any]) -> Iterator[Figure | None]:
    for criterion in findings.criteria(metrics):
        for score in wording.SCORES:
            yield lambda_curve(metrics, criterion, score)


def lambda_curve(metrics: Mapping[str, Any], criterion: findings.Criterion, score: str) -> Figure | None:
    """One score over the guidance scale, a line per method, Random (λ = 0) as the reference.

    UMS is drawn for the most common N_G only, since UMS at different N_G cannot be compared.

    Args:
        score: ams, ums or ums_best.

    Returns:
        The figure, or None if no guided condition has this score.
    """
    scored = [each for each in metrics["conditions"] if (criterion.of(each) or {}).get(score) is not None]
    left_out = 0
    if score != "ams" and scored:
        sizes = [each["n"] for each in scored]
        size = max(sizes, key=sizes.count)
        left_out = sum(n != size for n in sizes)
        scored = [each for each in scored if each["n"] == size]
    series = {}
    for method in findings.methods(metrics):
        points = sorted(
            (each for each in scored if each["method"] == method and each.get("lambda")),
            key=lambda each: each["lambda"],
        )
        if points:
            series[method] = points
    if not series:
        return None
    baseline = next((each for each in scored if each["method"] == "random"), None)
    at = criterion.kind if criterion.name == criterion.kind else f"{criterion.kind}-{slug(criterion.name)}"
    name, title = f"lambda-{at}-{score}", wording.SCORES[score]
    alt = f"{title}, {criterion.title[0].lower()}{criterion.title[1:]}, by guidance scale. " + _points_text(
        series, baseline, criterion, score
    )
    if criterion.kind != "calibrated":
        title += f", {criterion.name} ({wording.edges_text(criterion.edges)})"
    caption = f"Conditions of another N_G left out: {left_out}." if left_out else ""
    with svg.panel() as axes:
        if baseline is not None:
            _reference(axes, criterion.of(baseline) or {}, score)
        if score == "ams" and any((criterion.of(each) or {}).get("holdout_ams") is not None for each in scored):
            axes.plot([], [], color=svg.MUTED, linestyle=":", linewidth=1.4, label="held-out images")
        for method, points in series.items():
            _lambda_line(axes, method, points, baseline, criterion, score, findings.methods(metrics))
        axes.set_xlabel("guidance scale λ (0 = plain sampling)")
        axes.set_ylabel(_SHARES[score])
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        svg.legend_above(axes)
        group = f"lambda-{criterion.kind}"
        return Figure(name, group, title, caption, alt, svg.to_svg(axes, name, alt))


def _reference(axes: Axes, band: Mapping[str, Any], score: str) -> None:
    colour = svg.METHOD_COLOURS["random"]
    if band.get(f"{score}_ci"):
        axes.axhspan(*(100 * bound for bound in band[f"{score}_ci"]), color=colour, alpha=0.15, linewidth=0)
    axes.axhline(100 * band[score], color=colour, linestyle="--", label="Random (λ = 0)")


def _lambda_line(
    axes: Axes,
    method: str,
    points: list[Any],
    baseline: Any,
    criterion: findings.Criterion,
    score: str,
    methods: list[str],
) -> None:
    # λ = 0 is the same sampler for every method, so each curve starts at Random's point.
    whole = ([baseline] if baseline is not None else []) + points
    scales = [each.get("lambda") or 0 for each in whole]
    bands = [criterion.of(each) or {} for each in whole]
    colour = svg.colour_of(method, methods)
    shares = np.array([100 * band[score] for band in bands])
    axes.plot(
        scales,
        shares,
        color=colour,
        marker=svg.marker_of(method, methods),
        label=wording.method_name(method),
        clip_on=False,
        zorder=3,
    )
    held = [band.get("holdout_ams") for band in bands]
    if score == "ams" and None not in held:
        axes.plot(scales, 100 * np.array(held, dtype=float), color=colour, linestyle=":", linewidth=1.4)
    intervals = [band.get(f"{score}_ci") for band in bands]
    if all(intervals):
        low, high = 100 * np.array(intervals, dtype=float).T
        axes.fill_between(scales, low, high, color=colour, alpha=0.18, linewidth=0)
        if len(whole) == 1:
            axes.errorbar(
                scales, shares, [np.maximum(shares - low, 0), np.maximum(high - shares, 0)], color=colour, capsize=3
            )


def _points_text(series: Mapping[str, list[Any]], baseline: Any, criterion: findings.Criterion, score: str) -> str:
    parts = [f"Random {wording.percent((criterion.of(baseline) or {})[score])}."] if baseline is not None else []
    for method, points in series.items():
        listed = ", ".join(
            f"λ {each['lambda']:g}: {wording.percent((criterion.of(each) or {})[score])}" for each in points
        )
        parts.append(f"{wording.method_name(method)} {listed}.")
    return " ".join(parts)


def _distributions(metrics: Mapping[str, Any], values: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    criterion = findings.main_criterion(metrics)
    shown = []
    for condition in _representatives(metrics, criterion):
        for each in values:
            if each["method"] == condition["method"] and (each.get("lambda") or 0) == (condition.get("lambda") or 0):
                shown.append((condition, _finite(each["best"]), _finite(each.get("holdout_best"))))
                break
    pools = [pool for _, best, held in shown for pool in (best, held) if len(pool)]
    if not pools:
        return
    everything = np.concatenate(pools)
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1, 51)
    top = max(100 * np.histogram(pool, edges)[0].max() / len(pool) for pool in pools)
    for condition, best, held in shown:
        yield distribution(metrics, condition, best, held, edges, top)


def distribution(
    metrics: Mapping[str, Any],
    condition: Mapping[str, Any],
    best: np.ndarray,
    held: np.ndarray,
    edges: np.ndarray,
    top: float,
) -> Figure:
    """Best values of one condition's samples against the training set and the held-out set, with the calibrated cut.

    Args:
        best, held: float [N_G]; `held` may be empty.
        edges: float [bins + 1], the same in all figures that are compared.
        top: height of the highest bin of these figures, in per cent.
    """
    label, similarity = wording.condition_name(condition), wording.similarity_name(metrics["similarity"])
    name = f"best-{slug(condition['method'])}-{slug(wording.scale_text(condition.get('lambda')))}"
    median = wording.number(float(np.median(best)))
    alt = f"Histogram of the best {similarity} of each sample, {label}: median {median} against the training set"
    alt += f", {wording.number(float(np.median(held)))} against held-out images." if len(held) else "."
    methods = findings.methods(metrics)
    with svg.panel() as axes:
        if len(held):
            share = 100 * np.histogram(held, edges)[0] / len(held)
            axes.stairs(share, edges, fill=True, color=svg.MUTED, alpha=0.3, linewidth=0)
            axes.stairs(share, edges, color=svg.MUTED, linewidth=1.2, linestyle="--", label="to held-out images")
        colour = svg.colour_of(condition["method"], methods) if condition["method"] != "random" else svg.INK
        axes.stairs(
            100 * np.histogram(best, edges)[0] / len(best),
            edges,
            color=colour,
            linewidth=1.8,
            label="to training images",
        )
        if metrics.get("cut") is not None:
            axes.axvline(
                metrics["cut"],
                color=svg.INK,
                linewidth=1.2,
                linestyle=":",
                label=f"cut {wording.number(metrics['cut'])}",
            )
        closer = "smaller" if wording.lower_is_closer(metrics["similarity"]) else "greater"
        axes.set_xlabel(f"best {similarity} of a sample ({closer} = closer)")
        axes.set_ylabel("samples per bin (%)")
        axes.set_ylim(0, 1.05 * top)
        svg.legend_above(axes)
        return Figure(name, "best", label, "", alt, svg.to_svg(axes, name, alt))


def _representatives(metrics: Mapping[str, Any], criterion: findings.Criterion | None) -> list[Mapping[str, Any]]:
    """The best condition of every method."""
    if criterion is None:
        return []
    best = [findings.best_condition(metrics, method, criterion) for method in findings.methods(metrics)]
    return [condition for condition in best if condition is not None]


def _finite(values: Any) -> np.ndarray:
    array = np.asarray([] if values is None else values, dtype=float)
    finite: np.ndarray = array[np.isfinite(array)]
    return finite


def _rarefaction(metrics: Mapping[str, Any]) -> Iterator[Figure]:
    chosen = [each for each in _representatives(metrics, findings.main_criterion(metrics)) if findings.growth(each)]
    if not chosen:
        return
    name, title = "rarefaction", "Distinct training images by number of samples"
    ends = "; ".join(
        f"{wording.condition_name(each)}: {findings.growth(each)['distinct']:,} of {each['n']:,}" for each in chosen
    )
    alt = f"Expected number of distinct training images among the first m samples. Found: {ends} samples."
    methods = findings.methods(metrics)
    with svg.panel() as axes:
        for condition in chosen:
            _rarefaction_line(axes, condition, methods)
        axes.set_xlabel("samples drawn")
        axes.set_ylabel("distinct training images")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        svg.legend_above(axes)
        caption = f"Counted: {findings.richness_band(metrics)}. Dotted: extrapolation."
        yield Figure(name, "richness", title, caption, alt, svg.to_svg(axes, name, alt))


def _rarefaction_line(axes: Axes, condition: Mapping[str, Any], methods: list[str]) -> None:
    rows, method = findings.growth(condition)["curve"], condition["method"]
    m, distinct = np.array([row["m"] for row in rows]), np.array([row["distinct"] for row in rows], dtype=float)
    low, high = np.array([row["ci"] for row in rows], dtype=float).T
    drawn = m <= condition["n"]
    colour = svg.colour_of(method, methods)
    axes.plot(m[drawn], distinct[drawn], color=colour, label=wording.condition_name(condition))
    # Start at the last measured point, so that the two parts join.
    beyond = np.append(np.flatnonzero(drawn)[-1:], np.flatnonzero(~drawn))
    axes.plot(m[beyond], distinct[beyond], color=colour, linestyle=":")
    axes.plot(m[drawn][-1:], distinct[drawn][-1:], color=colour, marker=svg.marker_of(method, methods))
    axes.fill_between(m, low, high, color=colour, alpha=0.15, linewidth=0)
