"""The numbers printed in the paper, which ship with this package (`data/`, each file with its source)."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

Rows = list[dict[str, Any]]
DATASETS = {"celeba_hq": "CelebA-HQ-FI", "celeba": "CelebA-25000", "cifar10": "CIFAR-10"}
"""For `data.source` of a config, the paper's name of the data set."""


@dataclass(frozen=True)
class Recomputed:
    """A table or figure of the paper recomputed from a run: its data, a drawing, and a text that compares it with the paper."""

    name: str
    title: str
    rows: Rows
    svg: str
    text: str


def printed(name: str) -> Rows:
    """A file of the paper's numbers: one dict per line, numbers as floats.

    Args:
        name: table1, table2, table3, table4 or fig4.
    """
    text = (resources.files(__package__) / "data" / f"{name}.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [{key: _value(word) for key, word in row.items()} for row in csv.DictReader(lines)]


def scales_of_table4() -> Rows:
    """Table 4 in the form of `scales.rows_of`: CelebA-HQ-FI, mid band, AMS and UMS in %."""
    return [
        {
            "method": "td" if row["lambda"] else "random",
            "lambda": row["lambda"],
            "n": 50_000,
            "ams_mid": row["ams"],
            "ums_mid": row["ums"],
            **{key: value for key, value in row.items() if key.startswith("top_")},
        }
        for row in printed("table4")
    ]


def dataset_of(metrics: Mapping[str, Any]) -> str | None:
    """The paper's name of the data set of a run; None if it is not one of the paper's."""
    config = (metrics.get("provenance") or {}).get("config") or {}
    return DATASETS.get((config.get("data") or {}).get("source", ""))


def where(rows: Rows, **wanted: Any) -> Rows:
    """The rows that have all these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def paragraph(lines: Sequence[str]) -> str:
    """The statements as a text, one per line."""
    return "\n".join(lines) + "\n"


def _value(word: str) -> Any:
    try:
        return float(word)
    except ValueError:
        return word
