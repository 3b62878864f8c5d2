"""Matplotlib figures as SVG documents that are valid alone and can be embedded together in one page."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

INK, MUTED, GRID, SURFACE = "#1f2328", "#59636e", "#d8dee4", "#fefefe"
# Blue and vermilion of Okabe and Ito, darkened for contrast on white; markers distinguish the methods without colour.
METHOD_COLOURS = {"td": "#0067b3", "ti": "#c2510c", "random": MUTED}
OTHER_COLOURS = ["#00795a", "#9c4f94", "#7a6a00"]
METHOD_MARKERS = {"td": "o", "ti": "s", "random": "D"}
OTHER_MARKERS = ["^", "v", "P"]
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    METHOD_COLOURS["td"]: "td",
    METHOD_COLOURS["ti"]: "ti",
    **{colour: f"other-{i}" for i, colour in enumerate(OTHER_COLOURS, 1)},
}
"""For each colour of the figures, the CSS variable that replaces it in the page."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_STYLE: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": SURFACE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": SURFACE,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "side-ray",
}


@dataclass(frozen=True)
class Figure:
    """An SVG document with its title, caption and text alternative.

    `name` is a file stem; sections of the page select figures by `group`.
    """

    name: str
    group: str
    title: str
    caption: str
    alt: str
    svg: str


def colour_of(method: str, methods: list[str]) -> str:
    """The colour of a method; a method without a fixed one gets its colour by its place in `methods`."""
    return METHOD_COLOURS.get(method) or OTHER_COLOURS[_place(method, methods) % len(OTHER_COLOURS)]


def marker_of(method: str, methods: list[str]) -> str:
    return METHOD_MARKERS.get(method) or OTHER_MARKERS[_place(method, methods) % len(OTHER_MARKERS)]


def _place(method: str, methods: list[str]) -> int:
    return [name for name in methods if name not in METHOD_COLOURS].index(method)


@contextmanager
def panel(width: float = 4.6, height: float = 3.2) -> Iterator[Axes]:
    """One set of axes in the report's style; sizes in inches. Call `to_svg` inside the `with` block."""
    with matplotlib.rc_context(_STYLE):
        figure = Canvas(figsize=(width, height))
        # The same margins in every figure align the axes of figures that stand side by side.
        figure.subplots_adjust(left=0.145, right=0.97, bottom=0.155, top=0.845)
        yield figure.add_subplot()


@contextmanager
def panels(count: int) -> Iterator[list[Axes]]:
    """Several sets of axes side by side; otherwise as `panel`."""
    with matplotlib.rc_context(_STYLE):
        figure = Canvas(figsize=(4.6 * count, 3.2))
        figure.subplots_adjust(left=0.145 / count, right=1 - 0.03 / count, bottom=0.155, top=0.845, wspace=0.28)
        yield [figure.add_subplot(1, count, index + 1) for index in range(count)]


def legend_above(axes: Axes) -> None:
    """A legend in rows above the axes, where it hides no data. Labels are cut to 24 characters."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        short = [label if len(label) <= 24 else label[:23] + "…" for label in labels]
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.legend(
            handles,
            short,
            loc="upper left",
            bbox_to_anchor=(0.125, 1.0),
            ncols=2,
            borderaxespad=0.1,
            columnspacing=1.4,
            handlelength=1.8,
        )


def to_svg(axes: Axes, name: str, alt: str) -> str:
    """The axes' figure as an SVG document.

    Args:
        name: prefix of every id inside, so that several figures can be in one page.
        alt: text alternative, for screen readers.
    """
    figure = axes.get_figure(root=True)
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 (matplotlib's own output, no foreign XML)
    for stray in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(stray)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key in ("href", f"{{{_XLINK}}}href"):
                element.set(key, value.replace("#", f"#{name}-", 1))
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def themed(svg: str) -> str:
    """An SVG of `to_svg` for the page: without a size of its own, and with the page's CSS variables as colours."""
    head, _, body = svg.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return head + ">" + re.sub("|".join(VARIABLES), lambda match: f"var(--{VARIABLES[match[0]]}, {match[0]})", body)


def slug(text: str) -> str:
    """The text as part of a file name or an id."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text)
