"""What each similarity finds by itself."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import wording
from side_ray.report.sections import PageData, PageSection
from side_ray.report.verdict import sentences


class Descriptors(PageSection):
    heading = "What each similarity finds"
    contents = "By similarity"
    template = """\
<p class="explain">All compare the same samples with the same images. Each has its own cut, which unseen images set, and its own
verdict. The verdict of this report is that of the first.</p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="descriptors-caption">
<table class="shares"><caption id="descriptors-caption">Training images revealed and copied</caption>
<thead><tr><th scope="col">Similarity</th><th scope="col">Cut</th><th scope="col">Verdict</th><th scope="col">Revealed</th>
<th scope="col">Copied</th><th scope="col">Revealed by the first too</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.name }}</th><td>{{ row.cut }}</td><td>{{ row.outcome }}</td>
<td><b>{{ w.count(row.verdict.distinct) }}</b></td><td>{{ w.count(row.verdict.copied) }}</td>
<td>{{ w.count(row.both) }}</td></tr>
{% endfor %}
</tbody></table></div>
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        found = data.metrics.get("descriptors")
        if not found:
            return None
        return {"rows": [_row(each) for each in found.values()]}


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    verdict = found["verdict"]
    return {
        "name": wording.described_name(found["similarity"]),
        "cut": wording.cut_text(found),
        "outcome": sentences.OUTCOMES[verdict["outcome"]],
        "verdict": verdict,
        "both": found["also_by_first"],
    }
