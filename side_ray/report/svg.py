"""Matplotlib figures as SVG documents that are valid alone and can be embedded together in one page; and for papers."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import StepPatch

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

Data = Sequence[tuple[str, str | float, float]]
_KEPT: ContextVar[dict[str, bytes] | None] = ContextVar("kept", default=None)
_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}}
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


@contextmanager
def keeping() -> Iterator[dict[str, bytes]]:
    """While the block runs, `to_svg` also draws what papers and tables take, into the yielded files: `NAME.png` (200 dpi),
    `NAME.pdf`, and `NAME.csv` with the lines and histograms as rows of series, x and y."""
    kept: dict[str, bytes] = {}
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def _keep(axes: Axes, name: str, kept: dict[str, bytes], data: Data | None) -> None:
    figure = axes.get_figure(root=True)
    for kind, canvas in (("png", FigureCanvasAgg), ("pdf", FigureCanvasPdf)):
        buffer = io.BytesIO()
        canvas(figure).print_figure(buffer, format=kind, dpi=200, metadata=_UNDATED.get(kind))
        kept[f"{name}.{kind}"] = buffer.getvalue()
    lines = ["series,x,y"]
    drawn = figure.axes if figure is not None and data is None else ()
    rows = [(series, *pair) for panel in drawn for series, x, y in _data(panel) for pair in zip(x, y, strict=True)]
    for series, at, value in data or rows:
        label, place = series.replace('"', '""'), str(at).replace('"', '""')
        lines.append(f'"{label}",' + (f'"{place}"' if isinstance(at, str) else repr(at)) + f",{value!r}")
    kept[f"{name}.csv"] = ("\n".join(lines) + "\n").encode()


def _data(axes: Axes) -> Iterator[tuple[str, list[float], list[float]]]:
    """The series of one set of axes. One without a label is named after a labelled one of its colour: its dotted part."""
    known = [(to_hex(line.get_color()), str(line.get_label())) for line in axes.lines]
    labels = {colour: label for colour, label in known if not label.startswith("_")}
    for line in axes.lines:
        x, y = (np.asarray(values, float).ravel() for values in line.get_data())
        own = str(line.get_label())
        if x.size and x.size == y.size:
            named = f"{labels.get(to_hex(line.get_color()), 'line')}, {line.get_linestyle()}"
            yield named if own.startswith("_") else own, x.tolist(), y.tolist()
    for patch in axes.patches:
        if isinstance(patch, StepPatch) and not str(patch.get_label()).startswith("_"):
            values, edges = (np.asarray(each, float) for each in patch.get_data()[:2])
            yield str(patch.get_label()), ((edges[:-1] + edges[1:]) / 2).tolist(), np.asarray(values, float).tolist()


def to_svg(axes: Axes, name: str, alt: str, data: Data | None = None) -> str:
    """The axes' figure as an SVG document.

    Args:
        name: prefix of every id inside, so that several figures can be in one page.
        alt: text alternative, for screen readers.
        data: what is drawn, as rows of series, x and y, for the figure's CSV; without it, lines and histograms are read from
            the axes.
    """
    figure = axes.get_figure(root=True)
    if (kept := _KEPT.get()) is not None:
        _keep(axes, name, kept, data)
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
