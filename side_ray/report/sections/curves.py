"""Scores over the guidance scale λ: at the calibrated cut, and in every band."""

from typing import Any

from side_ray.report.sections import PageData, PageSection


class Curves(PageSection):
    heading = "Guidance scale, at the calibrated cut"
    contents = "Guidance scale"
    template = """\
{% from "macros.html.j2" import figure_grid %}
<p>λ is the weight of the classifier's gradient; λ = 0 is plain sampling. All conditions start from the same noise, so the curves
are paired. Shaded: 95% intervals. Dotted: the same samples against held-out images.</p>
{{ figure_grid(figures) }}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        figures = data.figures.get("lambda-calibrated")
        return {"figures": figures} if figures else None


class CurvesByBand(PageSection):
    heading = "Guidance scale by band"
    contents = "Curves by band"
    folded = True
    template = """\
{% from "macros.html.j2" import figure_grid %}
<p>Shaded: 95% intervals. Dotted: the same samples against held-out images. Where the
dotted line meets the solid one, a band says nothing about memorization.</p>
{% for heading, figures in groups %}
<h3>{{ heading }}</h3>
{{ figure_grid(figures) }}
{% endfor %}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        named = {"Cumulative bands": "lambda-cumulative", "Bands that do not overlap": "lambda-bands"}
        groups = [(heading, data.figures[group]) for heading, group in named.items() if data.figures.get(group)]
        return {"groups": groups} if groups else None
