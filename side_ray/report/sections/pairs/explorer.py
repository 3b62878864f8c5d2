"""All pairs within the cut, and some just beyond it, to filter, sort and look at closely."""

import json
from pathlib import Path
from typing import Annotated, Any

from markupsafe import Markup
from pydantic import Field

from side_ray.config.base import Section
from side_ray.report import wording
from side_ray.report.sections import PageData, PageSection
from side_ray.report.sections.pairs.gallery import TINY


class ExplorerOptions(Section):
    pairs: Annotated[int, Field(strict=True, ge=0, le=20_000)] = 5_000
    """Pairs within the cut that the page lets its reader look through. The page holds 8 MiB of thumbnails, the folder `pairs`
    beside it the others."""


class Explorer(PageSection):
    heading = contents = "All pairs"
    Options = ExplorerOptions

    def values(self, data: PageData) -> dict[str, Any] | None:
        if not data.pairs or not data.pairs["rows"]:
            return None
        similarity = data.metrics["similarity"]
        shown = {
            **data.pairs,
            "methods": {row[0]: wording.method_name(row[0]) for row in data.pairs["rows"]},
            "cut": data.metrics.get("cut"),
            "lower": wording.lower_is_closer(similarity),
            "similarity": wording.similarity_name(similarity),
        }
        # `</` would end the element that holds the values.
        text = json.dumps(shown, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        return {
            "values": Markup(text),  # noqa: S704 (JSON without a `<`)
            "within": wording.count(data.pairs["within"]),
            "tiny": data.pairs["side"] <= TINY,
            "shown": wording.count(len(data.pairs["rows"])),
            "folder": (data.pairs.get("sheets") or {}).get("folder"),
        }

    @classmethod
    def script(cls) -> str:
        return Path(__file__).with_suffix(".js").read_text(encoding="utf-8").strip()
