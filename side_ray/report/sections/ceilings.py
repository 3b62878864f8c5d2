"""What each similarity gives for training images that have lost detail, compared with themselves."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import findings, wording
from side_ray.report.sections import PageData, PageSection
from side_ray.statistics.changes import LOSSES


class Ceilings(PageSection):
    heading = "Would a copy that has lost detail be found?"
    contents = "Copies that have lost detail"
    folded = True
    template = """\
<p class="explain">Training images, drawn at random, are changed and compared with themselves, as samples are: a copy with that
loss is at best as close. Where few images still match, such copies are not counted, and finding none does not say that there is
none.</p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="ceilings-caption">
<table class="shares"><caption id="ceilings-caption">Training images that match themselves after a loss</caption>
<thead><tr><th scope="col">Similarity</th><th scope="col">Training images</th><th scope="col">Median</th>
<th scope="col">Farthest 5%</th><th scope="col">Within the cut</th><th scope="col">As close as the bands</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.name }}</th><td>{{ w.count(row.n) }} {{ row.change }}</td><td>{{ w.number(row.median) }}</td>
<td>{{ w.number(row.far) }}</td><td><b>{{ w.percent(row.within) }}</b></td><td>{{ row.bands }}</td></tr>
{% endfor %}
</tbody></table></div>
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        found = data.metrics.get("ceilings")
        if not found:
            return None
        rows = [row for name, each in found.items() for row in _rows(data.metrics, name, each)]
        return {"rows": rows}


def _rows(metrics: Mapping[str, Any], name: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": wording.described_name(findings.descriptor(metrics, name)),
            "n": found["n"],
            "change": LOSSES.get(change, change),
            "median": each["median"],
            "far": each["farthest_5_percent"],
            "within": each["within_cut"],
            "bands": "; ".join(f"{band} {wording.percent(share)}" for band, share in each["within_bands"].items()),
        }
        for change, each in found["changes"].items()
    ]
