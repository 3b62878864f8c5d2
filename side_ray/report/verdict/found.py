"""What each condition and method found."""

from typing import Any

from side_ray.report.sections import PageData, PageSection


class Found(PageSection):
    heading = contents = "What each condition found"
    template = """\
{% from "macros.html.j2" import figure_grid %}
{{ figure_grid(figures) }}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        figures = data.figures.get("found")
        return {"figures": figures} if figures else None
