"""Distributions of the best matches with the training set and with the held-out set."""

from typing import Any

from side_ray.report.sections import PageData, PageSection


class Distribution(PageSection):
    heading = contents = "Best matches"
    template = """\
{% from "macros.html.j2" import figure_grid %}
<p>How close each sample comes to its nearest training image and, where there is a held-out set, to its nearest image that the
model never saw. Samples on the near side of the cut in the first distribution but not in the second are evidence of
memorization.</p>
{{ figure_grid(figures) }}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        figures = data.figures.get("best")
        return {"figures": figures} if figures else None
