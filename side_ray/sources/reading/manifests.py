"""Labels and captions that lie beside image files: EDM's dataset.json, and Hugging Face's metadata.jsonl and metadata.csv."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from side_ray.errors import UserError
from side_ray.sources.reading.files import Files, Listing, ZipFiles

PATTERN = r"(^|/)(dataset\.json|metadata\.jsonl|metadata\.csv)$"
CAPTIONS = ("text", "caption", "prompt", "captions")
"""Columns and fields that hold captions; of a list, the first counts."""


@dataclass
class Manifest:
    """By the name of an image: its label and its caption."""

    labels: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Every image that a manifest names, and the manifest."""


def read_manifests(files: Files | ZipFiles, listing: Listing, label_field: str | None = None) -> Manifest:
    """What the manifests of a listing say.

    Args:
        label_field: the field of the label in metadata.jsonl and metadata.csv; None = `label`, where there is one.

    Raises:
        UserError: a manifest is damaged.
    """
    found = Manifest()
    for where in listing.matching(PATTERN).names.to_pylist():
        folder, _, kind = where.rpartition("/")
        text = files.read(where)
        try:
            rows = list(_edm(text) if kind.lower() == "dataset.json" else _metadata(kind.lower(), text, label_field))
        except (ValueError, RecursionError, csv.Error) as error:
            raise UserError(
                f"{where} in {files.uri} is damaged ({str(error)[:120]}); correct it", "data.path"
            ) from None
        for name, label, caption in rows:
            full = f"{folder}/{name}" if folder else name
            found.names[full] = where
            if label is not None:
                found.labels[full] = label
            if caption is not None:
                found.captions[full] = caption
    return found


def _edm(text: bytes) -> Iterator[tuple[str, str | None, None]]:
    """`{"labels": [["00000/img00000000.png", 6], …]}`, or null without labels; other files of this name are ignored."""
    content: Any = json.loads(text)
    pairs = content.get("labels") if isinstance(content, dict) else None
    for pair in pairs if isinstance(pairs, list) else ():
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError("labels must be pairs of a file name and a class")
        if isinstance(pair[1], (list, dict)):
            raise ValueError(f"the label of {pair[0]} is no single class")
        yield pair[0], None if pair[1] is None else str(pair[1]), None


def _metadata(kind: str, text: bytes, label_field: str | None) -> Iterator[tuple[str, str | None, str | None]]:
    lines = text.decode("utf-8-sig")
    rows: Iterator[Any]
    if kind.endswith(".csv"):
        rows = iter(csv.DictReader(io.StringIO(lines)))
    else:
        rows = (json.loads(line) for line in lines.splitlines() if line.strip())
    for number, row in enumerate(rows, 1):
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError(f"row {number} has no file_name")
        label = row.get(label_field or "label")
        if label_field and label is None:
            raise ValueError(f"row {number} has no field {label_field}")
        yield name.removeprefix("./"), None if label is None else str(label), caption_in(row)


def caption_in(fields: Mapping[str, Any]) -> str | None:
    """The caption among the fields of an image; None if there is none."""
    return next((text for key in CAPTIONS if (text := first_text(fields.get(key))) is not None), None)


def first_text(value: Any) -> str | None:
    """A text, or the first of a list of texts; None for anything else."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else None
