"""The figure of matches at equal rates of unseen matches."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from side_ray.config.extract import SIDE
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
        axes.set_ylabel("samples that match training images (%)")
        axes.set_ylim(bottom=0)
        svg.legend_above(axes)
        title = "Matches at equal rates of unseen matches"
        yield Figure(name, "equal-rates", title, "", alt, svg.to_svg(axes, name, alt))


def _shown(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Random or given samples, and the guided condition that reveals most."""
    plain = [each for each in metrics["conditions"] if each["method"] in ("random", "given")]
    guided = [each for each in metrics["conditions"] if each["method"] in SIDE]
    guided.sort(key=lambda each: (-(sentences.distinct(each) or 0), -(each.get("excess") or 0)))
    return [*plain[:1], *guided[:1]]


def _points(condition: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{wording.percent(row['matches'])} at {wording.percent(row['rate'])}" for row in condition["equal_rates"]
    )
