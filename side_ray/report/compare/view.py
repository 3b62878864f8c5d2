"""A comparison of runs as a terminal table and as a page."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from side_ray.report import wording
from side_ray.report.page import ENVIRONMENT

COLUMNS = ("condition", "N_G", "copies", "excess", "difference", "p (Holm)", "UMS at equal N_G", "finding")
NOTE = (
    "Excess: matches of training images minus those of unseen images, in % of the samples, at each run's own cut. Difference: of "
    "the excess, with its 95% interval: over samples and images where both runs have the same images, else over samples (*). "
    "Paired: both runs drew sample i from the same noise."
)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row as text, by `COLUMNS`."""
    difference = f"{100 * row['difference']:+.2f} ({100 * row['ci'][0]:+.2f} to {100 * row['ci'][1]:+.2f})"
    difference += "*" if row["over"] == "samples" else ""
    return (
        wording.condition_name(row),
        wording.count(row["n"]) + (" paired" if row["paired"] else ""),
        " → ".join(wording.percent(share) for share in row["copies"]),
        " → ".join(f"{100 * value:.2f}" for value in row["excess"]),
        difference,
        wording.p_value(row["p_adjusted"]).removeprefix("= "),
        " → ".join(wording.percent(share) for share in row["ums"]),
        finding(row),
    )


def finding(row: Mapping[str, Any]) -> str:
    """What a row shows, in words."""
    if row["worse"]:
        return "more copies"
    significant = row["p_adjusted"] < 0.05
    return "fewer copies" if significant and row["difference"] < 0 else "no difference shown"


def terminal_tables(found: Mapping[str, Any]) -> list[Table]:
    """A table for each run after the first."""
    first, *others = found["runs"]
    tables = []
    for place, other in enumerate(others, 1):
        caption = "\n".join([NOTE, *(f"changed: {change}" for change in other["changes"])])
        table = Table(
            title=Text(f"{first['uri']} → {other['uri']}"),
            caption=Text(caption),
            box=SIMPLE_HEAD,
            title_justify="left",
            caption_justify="left",
        )
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if 0 < number < len(COLUMNS) - 1 else "left")
        for row in found["rows"]:
            if row["run"] == place:
                table.add_row(*map(Text, cells(row)))
        tables.append(table)
    return tables


def page(found: Mapping[str, Any]) -> str:
    """The comparison as one HTML file, without scripts or requests."""
    first, *others = found["runs"]
    parts = [
        {"run": other, "rows": [cells(row) for row in found["rows"] if row["run"] == place]}
        for place, other in enumerate(others, 1)
    ]
    template = ENVIRONMENT.get_template("compare.html.j2")
    return template.render(
        title=f"Comparison with {first['uri']}", first=first, parts=parts, columns=COLUMNS, note=NOTE
    )
