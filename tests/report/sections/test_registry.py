"""A section of the page that comes from outside the package."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import Field

from side_ray.config import ReportSection
from side_ray.config.base import Section
from side_ray.report.page import render
from side_ray.report.sections import SECTIONS, PageData, PageSection


class MottoOptions(Section):
    motto: str = Field("count twice", min_length=3)


class Motto(PageSection):
    heading = "The auditor's motto"
    contents = "Motto"
    template = "<p>{{ motto }}: {{ w.count(n) }} samples</p>"
    Options = MottoOptions

    def values(self, data: PageData) -> dict[str, Any] | None:
        motto = data.options(MottoOptions).motto
        return {"motto": motto, "n": data.metrics["conditions"][0]["n"]} if motto != "none" else None


@pytest.fixture
def motto():
    SECTIONS.register("motto", Motto)
    yield
    SECTIONS.unregister("motto")


def test_config_knows_the_keys_of_registered_sections_only(motto):
    assert list(ReportSection().model_dump()) == ["title", "redact", "pdf", "figures", "gallery", "pairs", "motto"]
    assert ReportSection().model_dump()["motto"] == "count twice"
    assert ReportSection(motto="<trust>").options(MottoOptions).motto == "<trust>"
    with pytest.raises(ValueError, match=r"report\.motto: string should have at least 3 characters, not 'x'"):
        ReportSection(motto="x")
    SECTIONS.unregister("motto")
    with pytest.raises(
        ValueError,
        match=r"report\.motto: unknown key; known here: title, redact, pdf, figures, tracker, gallery, pairs",
    ):
        ReportSection(motto="count thrice")


def test_page_shows_a_registered_section_last_and_in_the_contents(motto, metrics, outline):
    page = outline(render(metrics, {"report": ReportSection(motto="<trust>").model_dump()}))
    assert page.faults == []
    assert page.text("h2").endswith("Provenance The auditor's motto")
    assert [each["href"] for each in page.all("a") if each["href"] != "#caveats"][-1] == "#motto"
    assert "<trust>: 2,000 samples" in page.text("p")


def test_section_without_values_is_left_out(motto, metrics, outline):
    page = outline(render(metrics, {"report": {"motto": "none"}}))
    assert "motto" not in page.ids()
    assert "#motto" not in [each["href"] for each in page.all("a")]


def test_modules_of_sections_are_cheap_to_import():
    code = (
        "import sys\nfrom side_ray.report.sections import SECTIONS\nSECTIONS.options()\n"
        "print([name for name in ('torch', 'ray', 'pyarrow', 'jinja2', 'matplotlib') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
