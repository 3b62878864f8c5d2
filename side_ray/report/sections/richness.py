"""Training images that further samples would reveal: rarefaction curves and Chao2's lower bound."""

from typing import Any

from side_ray.report import findings
from side_ray.report.sections import PageData, PageSection
from side_ray.report.verdict import sentences
from side_ray.statistics.richness import LEAST_COVERAGE


class Richness(PageSection):
    heading = "How many more can be found"
    contents = "How many more"

    def values(self, data: PageData) -> dict[str, Any] | None:
        if "verdict" in data.metrics and not sentences.claims(data.metrics):
            return None
        figures = data.figures.get("richness")
        rows = [
            (each, findings.within_reach(data.metrics, each))
            for each in data.metrics["conditions"]
            if findings.growth(each)
        ]
        if not figures and not rows:
            return None
        band = findings.richness_band(data.metrics)
        return {"figures": figures, "rows": rows, "band": band, "least": LEAST_COVERAGE, "growth": findings.growth}
