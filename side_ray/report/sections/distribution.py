"""How close the samples of each method come to the training set and to the held-out set."""

from typing import Any

from side_ray.report.sections import PageData, PageSection


class Distribution(PageSection):
    heading = contents = "Best matches"
    template = """\
{% from "macros.html.j2" import figure_grid %}
<p>How close each sample comes to its nearest training image and, where there is a held-out set, to its nearest image that the
model never saw. Memorization is what stands on the near side of the cut in the first and not in the second.</p>
{{ figure_grid(figures) }}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        figures = data.figures.get("best")
        return {"figures": figures} if figures else None
