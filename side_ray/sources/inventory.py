"""What each source of a data set holds, what of it is read and what is left out, for the terminal, info.json and the report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from side_ray.config import DataSection
from side_ray.errors import UserError
from side_ray.sources.base import Source, Tally
from side_ray.sources.select import check_sizes

LEFT_OUT = "left out: "
"""Starts the entry `error` of a scan for records that are no images, as opposed to images that cannot be used."""
ROLES = ("images",), ("members", "unseen")


def inventory(
    sources: Sequence[Source], counts: Sequence[int], unused: Sequence[Iterable[tuple[str, str]]]
) -> list[dict[str, Any]]:
    """For each source: its role, where it is, how many files and images were found and read, and what was left out and why.

    Args:
        counts: records of each source.
        unused: of each source, the name of every record that is not used, and why.
    """
    rows = []
    for role, source, count, records in zip(ROLES[len(sources) - 1], sources, counts, unused, strict=True):
        tally = source.left_out()
        by_reason: dict[str, list[str]] = {}
        for name, reason in records:
            by_reason.setdefault(_kind(reason), []).append(name)
        known = tally.total
        for reason, names in by_reason.items():
            tally.add(reason, names)
        rows.append(entry(role, source, count + known, tally))
    return rows


def entry(role: str, source: Source, found: int, tally: Tally) -> dict[str, Any]:
    """One row of an inventory, JSON-able."""
    left_out = tally.rows()
    return {"role": role, "path": source.uri, "found": found, "read": found - tally.total, "left_out": left_out}


def samples_inventory(source: Source) -> dict[str, Any]:
    """The row of given samples, all of which must be usable."""
    tally = source.left_out()
    return entry("samples", source, (source.count() or 0) + tally.total, tally)


def _kind(reason: str) -> str:
    """A reason without the details that differ from image to image, so that equal faults are counted together."""
    return reason.removeprefix(LEFT_OUT).split(" (")[0].split(";")[0][:80]


def told(row: Mapping[str, Any]) -> str:
    """A row of an inventory as one line."""
    found = f"{row['found']:,} {row['role'] if row['role'] != 'images' else 'files or images'} found in {row['path']}"
    return f"{found}, {row['read']:,} read" + (f"; left out: {reasons(row)}" if row["left_out"] else "")


def reasons(row: Mapping[str, Any], most: int = 5) -> str:
    """What was left out, as one line with the `most` frequent reasons."""
    parts = []
    for each in sorted(row["left_out"], key=lambda each: -each["count"]):
        names = ", ".join(name if len(name) <= 40 else f"…{name[-39:]}" for name in each["first"])
        parts.append(
            f"{each['count']:,} {each['reason']} ({names}{', …' if each['count'] > len(each['first']) else ''})"
        )
    rest = sum(each["count"] for each in sorted(row["left_out"], key=lambda each: -each["count"])[most:])
    return "; ".join(parts[:most]) + (f"; {rest:,} for other reasons" if rest else "")


def check_enough(
    data: DataSection, counts: Sequence[int], rows: Sequence[Mapping[str, Any]], otherwise: str = ""
) -> None:
    """Refuse a data set that holds too few images. Where some were left out, the remedy is to restore these: fewer members would
    hide copies of the others.

    Args:
        counts: images of each source that can be used.
        rows: the inventory of each.
        otherwise: what else may have left out images.

    Raises:
        UserError: there are too few.
    """
    try:
        check_sizes(data, *counts)
    except UserError as error:
        why = "; ".join(reasons(row) for row in rows if row["left_out"]) or otherwise
        if not why:
            raise
        raise UserError(
            f"{error.message.rpartition(';')[0]}. Left out were {why}: restore what the sets need", error.key
        ) from None
