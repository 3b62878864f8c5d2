"""What the numbers of the page mean."""

from typing import Any

from side_ray.report import findings, wording
from side_ray.report.sections import PageData, PageSection
from side_ray.report.sections.conditions import extra_columns
from side_ray.report.verdict import sentences
from side_ray.similarity import SIMILARITIES


class Reading(PageSection):
    heading = "How to read the numbers"
    contents = "How to read"
    folded = True

    def values(self, data: PageData) -> dict[str, Any]:
        similarity = data.metrics["similarity"]
        name = similarity.get("name")
        rate = data.metrics.get("false_match_rate", findings.FALSE_MATCH_RATE)
        return {
            "false_match_rate": wording.one_in(rate),
            "cut_source": findings.cut_source(data.metrics),
            "measured_rate": sentences.measured_rate(data.metrics),
            "similarity": wording.similarity_name(similarity),
            "explanation": SIMILARITIES[name].explain(similarity) if name in SIMILARITIES else "",
            "verdict": "verdict" in data.metrics,
            **extra_columns(data.metrics),
        }
