"""The training images that were revealed, one row for each."""

from typing import Any

from side_ray.report import wording
from side_ray.report.sections import PageData, PageSection

FIRST = 10
"""Rows that are shown before the others are unfolded."""


class Ledger(PageSection):
    heading = "Training images, one by one"
    contents = "Training images"
    template = """\
<p>{{ w.count(ledger.revealed) }} training images are revealed, {{ w.count(ledger.copied) }} of them copied.
{% if shown < ledger.revealed %}The {{ w.count(shown) }} with the smallest q-values are listed here.{% endif +%}
<code>ledger.parquet</code> lists all training images. <b>Found</b>: samples of all conditions within the cut. <b>Probability</b>:
of a match in one sample of the condition that matched it most, with its 95% interval for a condition chosen beforehand.
<b>Local density</b>: above 1 where images lie more densely than around the median training image. <b>Nearest unseen</b>: the
{{ similarity }} that an exact copy has with its nearest unseen image.</p>
{% macro listed(rows, name, caption) %}
<div class="scroll" tabindex="0" role="region" aria-labelledby="{{ name }}">
<table class="shares"><caption id="{{ name }}">{{ caption }}</caption>
<thead><tr><th scope="col">Image</th>{% if labelled %}<th scope="col">Label</th>{% endif %}
<th scope="col">Found</th><th scope="col">By</th>
<th scope="col">Probability</th><th scope="col">Group</th><th scope="col">Local density</th><th scope="col">Nearest unseen</th>
<th scope="col">Closest</th><th scope="col">q</th><th scope="col">Copied</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.train_id }}</th>{% if labelled %}<td>{{ "–" if row.label is none else row.label }}</td>{% endif %}
<td>{{ w.count(row.matches) }}</td><td>{{ names(row.methods) }}</td>
<td><b>{{ w.percent(row.probability) }}</b>
<span class="ci">{{ w.interval((row.probability_low, row.probability_high)) }}</span></td>
<td>{{ row.group_size }}</td><td>{{ w.number(row.local_density, 2) }}</td><td>{{ w.number(row.nearest_unseen) }}</td>
<td>{{ w.number(row.best) }}</td><td>{{ "%.2g" | format(row.q_value) }}</td><td>{{ "yes" if row.copied else "no" }}</td>
</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{{ listed(ledger.rows[:first], "ledger-caption", "Revealed training images") }}
{% if shown > first %}
<details class="more"><summary><h3>The next {{ shown - first }}</h3></summary>
{{ listed(ledger.rows[first:], "ledger-more", "Revealed training images, continued") }}
</details>
{% endif %}
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        ledger = data.metrics.get("ledger")
        if not ledger or not ledger["rows"]:
            return None
        return {
            "ledger": ledger,
            "names": lambda methods: ", ".join(map(wording.method_name, methods)),
            "first": FIRST,
            "shown": len(ledger["rows"]),
            "labelled": any(row["label"] is not None for row in ledger["rows"]),
            "similarity": wording.similarity_name(data.metrics["similarity"]),
        }
