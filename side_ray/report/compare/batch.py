"""The summary of a batch of audits, as a terminal table and as a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from side_ray.report import wording
from side_ray.report.page import ENVIRONMENT

COLUMNS = ("model", "data", "state", "training images found", "finding")
Row = Mapping[str, Any]


def cells(row: Row) -> tuple[str, ...]:
    """One audit as text, by `COLUMNS`."""
    found = ""
    if row["outcome"] == "found":
        found = f"{wording.count(row['distinct'])} of {wording.count(row['train_size'])}"
    elif row["outcome"] is not None:
        found = {"none_found": "none", "cannot_say": "cannot say"}[row["outcome"]]
    return row["model"], row["data"], row["state"], found, row["finding"]


def terminal_table(rows: Sequence[Row]) -> Table:
    """A row for each audit, without the sentences."""
    table = Table(box=SIMPLE_HEAD)
    for name in COLUMNS[:-1]:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(Text, cells(row)[:-1]))
    return table


def past(entry: Row) -> tuple[str, ...]:
    """One report of an audit's history as text: when, what was found, and what changed since the one before."""
    return entry["date"], cells({**entry, "model": "", "data": "", "state": "", "finding": ""})[3], entry["changed"]


def page(rows: Sequence[Row], history: Mapping[str, Sequence[Row]], uri: str) -> str:
    """The summary as one HTML file in a directory of the run, without scripts or requests. It links to each audit's report.

    Args:
        history: by the audit's name, its reports, oldest first (`side_ray.studies.batch.history`).
    """
    told = [(name, entry, past(entry)) for name, entries in history.items() for entry in reversed(entries)]
    counts = {state: sum(row["state"] == state for row in rows) for state in ("done", "failed", "left")}
    return ENVIRONMENT.get_template("batch.html.j2").render(
        title="Batch of audits",
        uri=uri,
        columns=COLUMNS,
        counts=counts,
        rows=[(row, cells(row)) for row in rows],
        history=told,
    )
