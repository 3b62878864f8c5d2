"""Matches at equal rates of unseen matches, and the rate that the cut keeps on unseen images that did not set it."""

from typing import Any

from side_ray.report import wording
from side_ray.report.sections import PageData, PageSection


class Rates(PageSection):
    heading = "At equal rates of unseen matches"
    contents = "Equal rates"
    template = """\
{% from "macros.html.j2" import figure_grid, name_cells %}
<p>Each point has a cut of its own, at which that share of the condition's samples would match a random set of unseen images
as large as the training set. So conditions are compared at equal cost in false matches. Shaded: 95% intervals over training
images, unseen images and samples. The numbers of all conditions are in <code>equal_rates.csv</code>.</p>
{{ figure_grid(figures) }}
{% if crossed %}
<div class="scroll" tabindex="0" role="region" aria-labelledby="crossfit-caption">
<table class="shares">
<caption id="crossfit-caption">Each half of the unseen images sets the cut, for {{ nominal }}, checked by the other</caption>
<thead><tr><th scope="col">Method</th><th scope="col">λ</th><th scope="col">N<sub>G</sub></th>
<th scope="col">Match training images</th><th scope="col">Match unseen images</th></tr></thead>
<tbody>
{% for row in crossed %}
<tr>{{ name_cells(row) }}<td><b>{{ w.percent(row.crossfit.ams) }}</b></td>
<td><b>{{ w.percent(row.crossfit.unseen) }}</b> <span class="ci">{{ w.interval(row.crossfit.unseen_ci) }}</span></td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        figures = data.figures.get("equal-rates") or []
        crossed = [each for each in data.metrics["conditions"] if each.get("crossfit")]
        if not figures and not crossed:
            return None
        nominal = wording.percent(data.metrics.get("false_match_rate"))
        return {"figures": figures, "crossed": crossed, "nominal": nominal}
