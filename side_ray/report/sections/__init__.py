"""The sections of the report's page, in the order in which they appear.

A section is one file: a `PageSection` with its heading, its template, the data for the template and, as `Options`, the keys
that it adds to the config's section `report`. To add one, write that file and add its line to `SECTIONS`; code outside the
package calls `SECTIONS.register("name", TheSection)`, which puts the section last. The name is the id of the HTML element.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel

from side_ray.registry import Registry

if TYPE_CHECKING:
    from side_ray.report.svg import Figure

Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True)
class PageData:
    """What a page is made from."""

    metrics: Mapping[str, Any]
    """The content of metrics.json."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config as JSON-able values; it may be empty."""
    figures: Mapping[str, Sequence["Figure"]] = field(default_factory=dict)
    """Figures by `Figure.group`."""
    gallery: Sequence[Mapping[str, Any]] = ()
    """Matches with their images, see `side_ray.report.page.render`."""
    pairs: Mapping[str, Any] | None = None
    """All pairs to look through, see `side_ray.results.pairs.pictures.Pictures.listed`."""

    def options(self, kind: type[Options]) -> Options:
        """The keys of the config's section `report` that a section owns; those not given have their defaults."""
        given = self.config.get("report") or {}
        return kind.model_validate({name: given[name] for name in kind.model_fields if name in given})


class PageSection(ABC):
    """One section of the page."""

    heading: ClassVar[str]
    contents: ClassVar[str]
    """Its line in the table of contents."""
    template: ClassVar[str] = ""
    """Jinja source of what stands below the heading. Empty = the file beside the module, `MODULE.html.j2`.

    A template sees what `values` returns, the functions of `side_ray.report.wording` as `w`, and the macros of
    `templates/macros.html.j2`.
    """
    folded: ClassVar[bool] = False
    """Whether the section is closed until the reader opens it. On paper it is open, or left out by the style sheet."""
    Options: ClassVar[type[BaseModel] | None] = None

    @abstractmethod
    def values(self, data: PageData) -> dict[str, Any] | None:
        """What the template needs; None leaves the section out of the page."""

    @classmethod
    def script(cls) -> str:
        """JavaScript that the section adds to the page; empty = none. What the page says is there without it."""
        return ""

    @classmethod
    def source(cls) -> str:
        """The template's text."""
        beside = Path(str(sys.modules[cls.__module__].__file__)).with_suffix(".html.j2")
        return cls.template or beside.read_text(encoding="utf-8")


SECTIONS: Registry[type[PageSection]] = Registry(
    "report.sections",
    {
        "result": "side_ray.report.sections.result:Result",
        "curves": "side_ray.report.sections.curves:Curves",
        "rates": "side_ray.report.verdict.rates:Rates",
        "found": "side_ray.report.verdict.found:Found",
        "gallery": "side_ray.report.sections.pairs.gallery:Gallery",
        "explorer": "side_ray.report.sections.pairs.explorer:Explorer",
        "distribution": "side_ray.report.sections.distribution:Distribution",
        "ledger": "side_ray.report.verdict.ledger:Ledger",
        "richness": "side_ray.report.sections.richness:Richness",
        "conditions": "side_ray.report.sections.conditions:Conditions",
        "descriptors": "side_ray.report.sections.descriptors:Descriptors",
        "ceilings": "side_ray.report.sections.ceilings:Ceilings",
        "opinions": "side_ray.report.sections.opinions:Opinions",
        "privacy": "side_ray.report.verdict.privacy:Privacy",
        "control": "side_ray.report.sections.control:Control",
        "caveats": "side_ray.report.sections.about.caveats:Caveats",
        "bands": "side_ray.report.sections.curves:CurvesByBand",
        "reading": "side_ray.report.sections.about.reading:Reading",
        "training": "side_ray.report.sections.about.training:Training",
        "provenance": "side_ray.report.sections.about.provenance:Provenance",
    },
)
