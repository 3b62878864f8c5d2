"""What changed between the audits that a batch has finished under one name: the newest report compared with the one before."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from side_ray.errors import Damaged, UserError
from side_ray.report import wording
from side_ray.report.compare.view import finding
from side_ray.results.recorded import Recorded
from side_ray.runs.run import Artifact
from side_ray.storage import Store
from side_ray.studies.compare import compare_recorded

OUTCOMES = {"found": "found", "none_found": "none found", "cannot_say": "cannot say"}
Entry = dict[str, Any]


def extended(store: Store, entries: Sequence[Entry], row: Mapping[str, Any]) -> list[Entry]:
    """The history of one audit with its newest report.

    Args:
        store: the batch's run directory, which holds all reports.
        entries: the history so far, oldest first: of each report its key `report`, `date` (UTC, ISO 8601), `outcome`, `distinct`
            and `train_size`, `changed` (a sentence; empty for the first) and `worse`: whether a condition has more copies than
            in the report before and than chance explains; None where the two cannot be compared.
        row: the audit in the summary. Where it has no report, or that of the last entry, nothing is added.
    """
    if row["report"] is None or (entries and entries[-1]["report"] == row["report"]):
        return list(entries)
    entry = {key: row[key] for key in ("report", "outcome", "distinct", "train_size")}
    entry |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "changed": "", "worse": False}
    if entries:
        try:
            pair = [_recorded(store, each["report"]) for each in (entries[-1], entry)]
            found = compare_recorded(pair)["rows"]
            entry |= {"changed": said(entries[-1], entry, found), "worse": any(each["worse"] for each in found)}
        except (UserError, Damaged, FileNotFoundError) as error:
            entry |= {"changed": f"cannot be compared with {entries[-1]['report']}: {error}", "worse": None}
    return [*entries, entry]


def said(before: Entry, after: Entry, rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about what changed.

    Args:
        before, after: entries of the history.
        rows: the conditions compared (`side_ray.studies.compare`).
    """
    parts = []
    if before["outcome"] != after["outcome"]:
        parts.append("verdict " + " → ".join(OUTCOMES.get(each["outcome"], "none") for each in (before, after)))
    if before["distinct"] != after["distinct"]:
        parts.append("training images revealed " + " → ".join(_count(each["distinct"]) for each in (before, after)))
    shown = [row for row in rows if finding(row) != "no difference shown"]
    for row in shown:
        excess = " → ".join(f"{100 * value:.2f}" for value in row["excess"])
        parts.append(f"{wording.condition_name(row)}: {finding(row)}, excess {excess}% of samples")
    if not shown:
        parts.append("no difference in copies beyond chance")
    return "; ".join(parts)


def _count(value: int | None) -> str:
    return "unknown" if value is None else wording.count(value)


def _recorded(store: Store, key: str) -> Recorded:
    return Recorded(store, key, Artifact(store, key).read_json("metrics.json"))
