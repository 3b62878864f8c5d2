"""What limits the numbers of this run, and the condition that the verdict leads with in full."""

from typing import Any

from side_ray.report import findings
from side_ray.report.sections import PageData, PageSection


class Caveats(PageSection):
    heading = "Before these numbers are quoted"
    contents = "Caveats"
    template = """\
{% for line in lines %}
<p class="explain">{{ line }}</p>
{% endfor %}
{% if notes %}
<ul class="notes">
{% for note in notes %}
<li><strong>{{ note.title }}.</strong> {{ note.text }}</li>
{% endfor %}
</ul>
{% endif %}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        notes, lines = findings.notes(data.metrics), findings.explanation(data.metrics)
        return {"notes": notes, "lines": lines} if notes or lines else None
