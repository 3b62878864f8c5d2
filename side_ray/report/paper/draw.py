"""The drawings of the recomputed tables and figures, as SVG documents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from side_ray.report import svg, wording
from side_ray.report.paper.printed import Rows, where

COLOURS = (svg.METHOD_COLOURS["td"], svg.METHOD_COLOURS["ti"], *svg.OTHER_COLOURS)
SCORES = ("ams", "ums")


def by_band(table: Rows, bands: Sequence[str], title: str) -> str:
    """Table 1: one point per method and band in %, AMS on the left and UMS on the right."""
    with svg.panels(2) as axes:
        for panel, score in zip(axes, SCORES, strict=True):
            for method in dict.fromkeys(row["method"] for row in table):
                mine = [where(table, method=method, band=band)[0] for band in bands]
                colour, marker = svg.METHOD_COLOURS[method], svg.METHOD_MARKERS[method]
                values = [row[score] for row in mine]
                panel.plot(range(len(bands)), values, marker, color=colour, label=wording.method_name(method))
                if all(f"{score}_low" in row for row in mine):
                    panel.vlines(
                        range(len(bands)),
                        [row[f"{score}_low"] for row in mine],
                        [row[f"{score}_high"] for row in mine],
                        color=colour,
                        alpha=0.4,
                    )
            panel.set_xticks(range(len(bands)), list(bands))
            _percent(panel, score)
        svg.legend_above(axes[0])
        return svg.to_svg(axes[0], "table1", title)


def tops(table: Rows, names: Sequence[str], title: str) -> str:
    """Table 3: the mean similarity of the best p % of the samples, over p."""
    with svg.panels(1) as (panel,):
        shares = [float(name[4:]) for name in names]
        for row in table:
            method = row["method"]
            panel.plot(
                shares,
                [row[name] for name in names],
                color=svg.METHOD_COLOURS[method],
                marker=svg.METHOD_MARKERS[method],
                label=wording.method_name(method),
            )
        panel.set_xscale("log")
        panel.set_xlabel("best p % of the samples")
        panel.set_ylabel("their mean similarity")
        svg.legend_above(panel)
        return svg.to_svg(panel, "table3", title)


def scores_by_scale(rows: Rows, bands: Sequence[str], title: str) -> str:
    """Figure 4: AMS (left) and UMS (right) of each band over λ with 95 % intervals and the best λ marked."""
    ordered = sorted(rows, key=lambda row: row["lambda"])
    scales = [row["lambda"] for row in ordered]
    with svg.panels(2) as axes:
        for panel, score in zip(axes, SCORES, strict=True):
            for band, colour in zip(bands, COLOURS, strict=False):
                values = np.array([row[f"{score}_{band}"] for row in ordered])
                panel.plot(scales, values, color=colour, label=band)
                if f"{score}_{band}_low" in ordered[0]:
                    low, high = ([row[f"{score}_{band}_{end}"] for row in ordered] for end in ("low", "high"))
                    panel.fill_between(scales, low, high, color=colour, alpha=0.15, linewidth=0)
                best = int(values.argmax())
                panel.plot(scales[best], values[best], color=colour, marker="o")
            panel.set_xlabel("guidance scale λ (0 = plain sampling)")
            _percent(panel, score)
        svg.legend_above(axes[0])
        return svg.to_svg(axes[0], "lambda", title)


def fitted(table: Rows, fits: Mapping[str, Any], names: Mapping[str, str], title: str) -> str:
    """Figure 7: a score over the number of classes in %, with the fitted line and its 95 % band, one panel per score."""
    with svg.panels(len(names)) as axes:
        for panel, (score, label) in zip(axes, names.items(), strict=True):
            classes = np.array([row["classes"] for row in table], float)
            panel.plot(classes, 100 * np.array([row[score] for row in table]), "o", color=COLOURS[0])
            grid = np.linspace(classes.min(), classes.max(), 60)
            line, low, high = fits[score].at(grid)
            panel.plot(grid, 100 * line, color=COLOURS[0])
            panel.fill_between(grid, 100 * low, 100 * high, color=COLOURS[0], alpha=0.15, linewidth=0)
            panel.set_xlabel("classes")
            panel.set_ylabel(f"{label} (%)")
        return svg.to_svg(axes[0], "classes", title)


def growth(curves: Mapping[str, Any], title: str) -> str:
    """Figure 5: measured unique images (dots), the expectation of Eq. 150 and its simultaneous 95 % band."""
    with svg.panels(1) as (panel,):
        for (label, curve), colour in zip(curves.items(), COLOURS, strict=False):
            panel.fill_between(curve.m, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
            panel.plot(curve.m, curve.expected, color=colour, label=f"{label}, Eq. 150")
            panel.plot(curve.m, curve.measured, ".", color=colour, label=f"{label}, measured")
        panel.set_xlabel("N_G")
        panel.set_ylabel("distinct training images")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        svg.legend_above(panel)
        return svg.to_svg(panel, "growth", title)


def _percent(panel: Axes, score: str) -> None:
    panel.set_ylabel(f"{wording.SCORES[score]} (%)")
    panel.set_ylim(bottom=0)
