"""The figures of what was found: each condition's excess, the overlap between methods, and the yield by class and cluster."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from side_ray.report import svg, wording
from side_ray.report.svg import Figure

MOST_BARS = 30
"""Bars of a figure; metrics.json holds all."""


def found_figures(metrics: Mapping[str, Any]) -> Iterator[Figure]:
    """Every figure of the group `found` for which the numbers are there."""
    measured = [each for each in metrics["conditions"] if each.get("excess_ci")]
    if measured:
        yield forest(measured)
    ledger = metrics.get("ledger") or {}
    if len({each["method"] for each in metrics["conditions"]}) > 1 and ledger.get("overlap"):
        yield overlap(ledger["overlap"])
    for key, name in (("classes", "class"), ("clusters", "cluster of generated images")):
        if len(ledger.get(key) or ()) > 1 and ledger["revealed"]:
            yield yields(ledger[key], key, name)


def forest(conditions: Sequence[Mapping[str, Any]]) -> Figure:
    """The excess of each condition with its 95 % interval, one below the other."""
    names = [wording.condition_name(each) for each in conditions]
    methods = list(dict.fromkeys(each["method"] for each in conditions))
    values = [(each["excess"], *(min(max(end, -1.0), 1.0) for end in each["excess_ci"])) for each in conditions]
    listed = "; ".join(
        f"{name} {_signed(value)} ({_signed(low)} to {_signed(high)})"
        for name, (value, low, high) in zip(names, values, strict=True)
    )
    name, title = "excess", "Excess of matches over unseen images"
    alt = f"{title}, with 95% intervals. {listed}."
    with _listing(len(conditions), 0.3) as axes:
        axes.axvline(0, color=svg.MUTED, linewidth=1.2, linestyle="--")
        for place, (each, (value, low, high)) in enumerate(zip(conditions, values, strict=True)):
            colour, marker = svg.colour_of(each["method"], methods), svg.marker_of(each["method"], methods)
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.6)
            axes.plot([100 * value], [place], color=colour, marker=marker)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("excess (% of samples)")
        data = [
            (series, label, 100 * row[place])
            for place, series in enumerate(("excess", "low", "high"))
            for label, row in zip(names, values, strict=True)
        ]
        caption = "A condition whose whole interval lies right of 0 matches training images more than chance explains."
        return Figure(name, "found", title, caption, alt, svg.to_svg(axes, name, alt, data))


def overlap(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Copied training images by the methods that matched them."""
    shown = rows[:MOST_BARS]
    names = [" + ".join(map(wording.method_name, each["methods"])) for each in shown]
    listed = "; ".join(f"{name}: {wording.count(each['images'])}" for name, each in zip(names, shown, strict=True))
    name, title = "overlap", "Copied training images by the methods that found them"
    alt = f"{title}. {listed}."
    with _listing(len(shown), 0.46) as axes:
        axes.barh(range(len(shown)), [each["images"] for each in shown], color=svg.METHOD_COLOURS["td"], height=0.7)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("training images")
        data = [("images", label, each["images"]) for label, each in zip(names, shown, strict=True)]
        caption = "Each image counts once, with every method that has a sample of it within the cut."
        return Figure(name, "found", title, caption, alt, svg.to_svg(axes, name, alt, data))


def yields(rows: Sequence[Mapping[str, Any]], key: str, kind: str) -> Figure:
    """Training images by class or cluster, and how many of them were revealed and copied."""
    shown = sorted(sorted(rows, key=lambda each: -each["revealed"])[:MOST_BARS], key=lambda each: each["number"])
    listed = "; ".join(
        f"{each['number']}: {wording.count(each['revealed'])} of {wording.count(each['images'])} revealed, "
        f"{wording.count(each['copied'])} copied"
        for each in shown
    )
    name, title = f"yield-{key}", f"Training images found by {kind}"
    alt = f"{title}. {listed}."
    places = np.arange(len(shown))
    with svg.panel() as axes:
        series = {"images": svg.GRID, "revealed": svg.METHOD_COLOURS["td"], "copied": svg.INK}
        for width, (label, colour) in zip((0.8, 0.55, 0.25), series.items(), strict=True):
            axes.bar(places, [each[label] for each in shown], width=width, color=colour, label=label)
        axes.set_xticks(places, [str(each["number"]) for each in shown], fontsize=9 if len(shown) < 16 else 6)
        axes.set_xlabel(kind)
        axes.set_ylabel("training images")
        svg.legend_above(axes)
        left_out = len(rows) - len(shown)
        caption = f"The {len(shown)} with the most revealed images; left out: {left_out}." if left_out else ""
        data = [(label, str(each["number"]), each[label]) for label in series for each in shown]
        return Figure(name, "found", title, caption, alt, svg.to_svg(axes, name, alt, data))


@contextmanager
def _listing(rows: int, left: float) -> Iterator[Axes]:
    """Axes for rows from top to bottom, whose names take the share `left` of the width. There is no legend."""
    height = 0.8 + 0.24 * rows
    with svg.panel(height=height) as axes:
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.subplots_adjust(left=left, bottom=0.55 / height, top=1 - 0.08 / height)
        axes.set_ylim(rows - 0.5, -0.5)
        yield axes


def _signed(share: float) -> str:
    return ("−" if share < 0 else "") + wording.percent(abs(share))
