"""Second opinions: other published measures of memorization, beside what they give for images that the model never saw."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import wording
from side_ray.report.sections import PageData, PageSection
from side_ray.statistics.opinions.copying import MORE_THAN
from side_ray.statistics.opinions.frechet import THRESHOLD

MEASURES = {
    "ratio": "d₁/d₂ < ⅓",
    "authenticity": "Authentic",
    "copying": "C_T",
    "frechet": "Fréchet distance and memorization-informed distance",
}


class Opinions(PageSection):
    heading = contents = "Second opinions"
    folded = True

    def values(self, data: PageData) -> dict[str, Any] | None:
        found = data.metrics.get("second_opinions")
        if not found:
            return None
        return {
            "tables": [_table(data.metrics, name, each) for name, each in found.items()],
            "threshold": THRESHOLD,
            "more_than": MORE_THAN,
        }


def _table(metrics: Mapping[str, Any], name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    number = list(metrics["second_opinions"]).index(name)
    others = metrics.get("descriptors") or {}
    own = metrics["similarity"] if number == 0 else others.get(name, {}).get("similarity", {"name": name})
    return {
        "id": f"opinions-{number}",
        "name": wording.described_name(own),
        "distance": found["distance"],
        "rows": found["conditions"],
        "unseen": found["unseen"],
        "present": [measure for measure in MEASURES if measure not in found["absent"]],
        "absent": [(MEASURES[measure], reason) for measure, reason in found["absent"].items()],
    }
