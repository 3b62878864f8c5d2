"""The report: one HTML file that needs no network and no other file, and shows all numbers without its script."""

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import jinja2
from markupsafe import Markup

from side_ray.report import svg, wording
from side_ray.report.sections import SECTIONS, PageData
from side_ray.report.svg import Figure

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("side_ray.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters["css"] = lambda text: Markup(re.sub(r"[^\w .,:-]", _css_escape, str(text)))  # noqa: S704 (escaped for CSS)
ENVIRONMENT.globals |= {
    "w": wording,
    "themed": lambda figure: Markup(svg.themed(figure.svg)),  # noqa: S704 (our own SVG, its text escaped by matplotlib)
}


def _css_escape(letter: re.Match[str]) -> str:
    return f"\\{ord(letter[0]):x} "  # the space ends the number


def render(
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    figures: Sequence[Figure] = (),
    gallery: Sequence[Mapping[str, Any]] = (),
    pairs: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> str:
    """The content of index.html: the registered sections that have something to show, in their order.

    Args:
        metrics: the content of metrics.json.
        config: the resolved config as JSON-able values; `report` holds the title and the sections' options.
        figures: those of `side_ray.report.figures.build_figures`.
        gallery: matches to choose from, dicts of `method`, `lambda`, `train_id`, `sample_id`, `value`, `train_png`,
            `sample_png` (bytes, or None where images are left out) and `label` (or None). Per method the closest
            `report.gallery` (12) are shown, each training image once.
        pairs: all pairs to look through, of `side_ray.results.pairs.pictures.Pictures.listed`.
        title: overrides `report.title`.

    Raises:
        ValueError: an image of the gallery is no PNG.
    """
    groups: dict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        groups[figure.group].append(figure)
    data = PageData(metrics, config, groups, gallery, pairs)
    sections, scripts = [], []
    for name in SECTIONS.names:
        section = SECTIONS[name]()
        values = section.values(data)
        if values is not None:
            text = ENVIRONMENT.from_string(section.source()).render(values)
            body = Markup(text.strip("\n"))  # noqa: S704 (rendered with escaping)
            sections.append({"name": name, "section": section, "body": body})
            scripts += [script] if (script := section.script()) else []
    title = title or (config.get("report") or {}).get("title") or "Memorization audit"
    policy = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return ENVIRONMENT.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        scripts=[Markup(script) for script in scripts],  # noqa: S704 (the package's own files)
        policy=policy or "'none'",
        beside=bool(pairs and pairs.get("sheets")),
    )
