"""The figures of matches at equal rates of unseen matches, and at every cut."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from side_ray.config.extract import GUIDED
from side_ray.report import svg, wording
from side_ray.report.svg import Figure
from side_ray.report.verdict import sentences


def rate_figures(metrics: Mapping[str, Any]) -> Iterator[Figure]:
    """Matches with training images over the rate of unseen matches: Random, and the guided condition that found most."""
    shown = [each for each in _shown(metrics) if each.get("equal_rates")]
    if not shown:
        return
    methods = [each["method"] for each in shown]
    ends = "; ".join(f"{wording.condition_name(each)}: {_points(each)}" for each in shown)
    name, alt = "equal-rates", f"Share of samples that match training images by rate of unseen matches. {ends}."
    with svg.panel() as axes:
        for each in shown:
            rates, matches = (100 * np.array([row[key] for row in each["equal_rates"]]) for key in ("rate", "matches"))
            low, high = 100 * np.array([row["ci"] for row in each["equal_rates"]]).T
            colour, marker = svg.colour_of(each["method"], methods), svg.marker_of(each["method"], methods)
            axes.plot(rates, matches, color=colour, marker=marker, label=wording.condition_name(each))
            axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot([], [], color=svg.MUTED, linestyle=":", label="as many as unseen images")
        every = [100 * row["rate"] for each in shown for row in each["equal_rates"]]
        line = np.geomspace(min(every), max(every), 30)
        axes.plot(line, line, color=svg.MUTED, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(every)), [f"{each:g}" for each in sorted(set(every))], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("samples that match unseen images (%)")
        axes.set_ylabel("match training images (%)")
        axes.set_ylim(bottom=0)
        svg.legend_above(axes)
        title = "Matches at equal rates of unseen matches"
        yield Figure(name, "equal-rates", title, "", alt, svg.to_svg(axes, name, alt))


def cut_figures(metrics: Mapping[str, Any], values: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """The share of samples that match training and unseen images if the cut lay elsewhere: Random, and the guided condition that
    found most.

    Args:
        values: those of `build_figures`.
    """
    best = {(each["method"], each.get("lambda") or 0): each for each in values if each.get("holdout_best") is not None}
    shown = [each for each in _shown(metrics) if (each["method"], each.get("lambda") or 0) in best]
    if not shown or metrics.get("cut") is None:
        return
    sign = 1 if wording.lower_is_closer(metrics["similarity"]) else -1
    pools = [
        [
            np.sort(sign * _finite(best[each["method"], each.get("lambda") or 0][key]))
            for key in ("best", "holdout_best")
        ]
        for each in shown
    ]
    ends = "; ".join(
        f"{wording.condition_name(each)}: {wording.percent(each['calibrated']['ams'])} of the samples match training images, "
        f"{wording.percent(each['calibrated'].get('holdout_ams'))} unseen ones"
        for each in shown
    )
    name, title = "matches-by-cut", "Matches by cut"
    alt = f"Share of samples that match training and unseen images, by cut. At the calibrated cut, {ends}."
    low = min(float(pool[0]) for pair in pools for pool in pair)
    high = max(float(np.median(pool)) for pair in pools for pool in pair)
    cuts = np.linspace(low, high, 121)
    methods = [each["method"] for each in shown]
    data = []
    with svg.panel() as axes:
        for each, pair in zip(shown, pools, strict=True):
            colour = svg.colour_of(each["method"], methods)
            for pool, line, images in zip(pair, ("-", ":"), ("training images", "unseen images"), strict=True):
                share = 100 * np.searchsorted(pool, cuts, side="right") / len(pool)
                axes.plot(
                    sign * cuts[share > 0],
                    share[share > 0],
                    color=colour,
                    linestyle=line,
                    label=wording.condition_name(each) if line == "-" else None,
                    marker=svg.marker_of(each["method"], methods),
                    markevery=20,
                )
                series = f"{wording.condition_name(each)}, {images}"
                data += [(series, float(sign * cut), float(value)) for cut, value in zip(cuts, share, strict=True)]
        axes.plot([], [], color=svg.MUTED, linestyle=":", label="unseen images")
        axes.axvline(
            metrics["cut"], color=svg.INK, linewidth=1.2, linestyle="--", label=f"cut {wording.number(metrics['cut'])}"
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        if sign < 0:
            axes.invert_xaxis()
        axes.set_xlabel(f"cut: best {wording.similarity_name(metrics['similarity'])} of a sample that matches")
        axes.set_ylabel("samples that match (%)")
        svg.legend_above(axes)
        yield Figure(name, "best", title, "", alt, svg.to_svg(axes, name, alt, data))


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    finite: np.ndarray = array[np.isfinite(array)]
    return finite


def _shown(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Random or given samples, and the guided condition that reveals most."""
    plain = [each for each in metrics["conditions"] if each["method"] in ("random", "given")]
    guided = [each for each in metrics["conditions"] if each["method"] in GUIDED]
    guided.sort(key=lambda each: (-(sentences.distinct(each) or 0), -(each.get("excess") or 0)))
    return [*plain[:1], *guided[:1]]


def _points(condition: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{wording.percent(row['matches'])} at {wording.percent(row['rate'])}" for row in condition["equal_rates"]
    )
