"""How the networks were trained."""

from typing import Any

from side_ray.report.sections import PageData, PageSection


class Training(PageSection):
    heading = contents = "Training"
    folded = True
    template = """\
{% from "macros.html.j2" import figure_grid %}
{{ figure_grid(figures) }}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        figures = data.figures.get("training")
        return {"figures": figures} if figures else None
