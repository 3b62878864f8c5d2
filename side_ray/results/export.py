"""A finished run in the formats of other tools. A new format is one function and one line in `EXPORTS`."""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from side_ray.report import findings, wording
from side_ray.report.table import metrics_csv, metrics_rows
from side_ray.report.verdict import sentences
from side_ray.results.pdf import print_pdf
from side_ray.results.recorded import Recorded
from side_ray.runs.run import PAGE

PAPER = "https://arxiv.org/abs/2410.02467"
TABLES = ("metrics.csv", "extracted.csv", "extracted.parquet", "ledger.parquet")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")


def model_card(run: Recorded) -> bytes:
    """A section for a model card, in Markdown, with the card's metadata (`model-index`) before it."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult("image-generation", "memorization-audit", _data(run), name, value, metric_name=label)
        for name, label, value in _values(run.metrics)
    ]
    # `model-index` has no meaning without a name; the card's owner replaces it.
    card = ModelCardData(eval_results=results, model_name=_title(run))
    rows = [
        (wording.condition_name(row), wording.count(row["n"]), *_cells(run, row)) for row in run.metrics["conditions"]
    ]
    head = ("sampling", "samples", "distinct images revealed", "matches within the cut", "held-out matches")
    lines = [
        "|".join(("", *cells, "")) for cells in (head, ("---",) * len(head), *(map(_escaped, row) for row in rows))
    ]
    shows, not_shown = sentences.scope(run.metrics)
    text = [
        "## Memorization audit",
        _escaped(findings.headline(run.metrics)),
        "\n".join(lines),
        f"{_escaped(shows)} It does not show: {_escaped(not_shown[0].lower() + not_shown[1:])}",
        f"Made by side-ray {_version(run.metrics)}, an implementation of [SIDE]({PAPER}).",
    ]
    body = "\n\n".join(text)
    return f"---\n{card.to_yaml()}\n---\n\n{body}\n".encode()


def eval_results(run: Recorded) -> bytes:
    """Entries for `.eval_results/*.yaml` of a model repository on the Hub."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    at = (run.metrics.get("provenance") or {}).get("at")
    entries = [
        EvalResultEntry(_data(run), name, value, date=at, source_url=PAPER, source_name="side-ray", notes=label)
        for name, label, value in _values(run.metrics)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True).encode()


def csv(run: Recorded) -> bytes:
    """The rows of metrics.csv."""
    return metrics_csv(run.metrics).encode()


def parquet(run: Recorded) -> bytes:
    """The rows of metrics.csv, with types."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(metrics_rows(run.metrics)), buffer, compression="zstd")
    return buffer.getvalue()


def croissant(run: Recorded) -> bytes:
    """Croissant 1.0 metadata of the report's tables."""
    files, records = [], []
    for name in TABLES:
        key = f"{run.key}/{name}"
        try:
            content = run.store.read(key)
        except FileNotFoundError:  # reports without unseen images have no ledger
            continue
        kind = "application/vnd.apache.parquet" if name.endswith(".parquet") else "text/csv"
        digest = sha256(content).hexdigest()
        entry = {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": key, "encodingFormat": kind}
        files.append({**entry, "sha256": digest, "contentSize": f"{len(content)} B"})
        if name.endswith(".parquet"):
            schema = pq.read_schema(pa.BufferReader(content))
            stem = name.removesuffix(".parquet")
            records.append(
                {"@type": "cr:RecordSet", "@id": stem, "name": stem, "field": list(_fields(name, stem, schema))}
            )
    found = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": _title(run),
        "description": findings.headline(run.metrics),
        "citeAs": PAPER,
        "distribution": files,
        "recordSet": records,
    }
    if at := (run.metrics.get("provenance") or {}).get("at"):
        found["datePublished"] = at
    return json.dumps(found, indent=1, ensure_ascii=False).encode()


def pdf(run: Recorded) -> bytes:
    """The page as PDF, its first page a certificate. Raises UserError without Chromium on this machine."""
    return print_pdf(run.store.read(PAGE if run.store.exists(PAGE) else f"{run.key}/index.html").decode())


EXPORTS: Mapping[str, tuple[Callable[[Recorded], bytes], str]] = {
    "hf-card": (model_card, "memorization.md"),
    "eval-results": (eval_results, "memorization.yaml"),
    "csv": (csv, "metrics.csv"),
    "parquet": (parquet, "metrics.parquet"),
    "croissant": (croissant, "croissant.json"),
    "pdf": (pdf, "report.pdf"),
}
"""The function of each format, and the name of its file."""

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "recordSet": "cr:recordSet",
    "repeated": "cr:repeated",
    "sc": "https://schema.org/",
    "source": "cr:source",
}
_TYPES = (
    (pa.types.is_boolean, "sc:Boolean"),
    (pa.types.is_integer, "sc:Integer"),
    (pa.types.is_floating, "sc:Float"),
)


def _fields(file: str, stem: str, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    for column in schema:
        many = pa.types.is_list(column.type)
        kind = column.type.value_type if many else column.type
        field: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{stem}/{column.name}",
            "name": column.name,
            "dataType": next((name for test, name in _TYPES if test(kind)), "sc:Text"),
            "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
        }
        yield field | ({"repeated": True} if many else {})


def _values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Name, label and value of the numbers that stand for the whole audit."""
    verdict = metrics.get("verdict") or {}
    if "outcome" in verdict:
        yield "verdict", "verdict", verdict["outcome"]
        yield (
            "distinct",
            f"distinct training images revealed at a false discovery rate of {verdict['fdr']:g}",
            verdict["distinct"],
        )
        yield "copied", "of these, within the cut", verdict["copied"]
    for row in metrics["conditions"]:
        if (found := sentences.distinct(row)) is not None:
            name = f"{row['method']}_{row['lambda']:g}"
            yield name, f"{wording.condition_name(row)}: distinct images revealed in {row['n']} samples", found


def _cells(run: Recorded, row: Mapping[str, Any]) -> tuple[str, str, str]:
    band = run.criterion.of(row) or {}
    return (
        wording.count(sentences.distinct(row)),
        wording.percent(band.get("ams")),
        wording.percent(band.get("holdout_ams")),
    )


def _data(run: Recorded) -> str:
    """The data set's name, without the directories of the machine that it lay on."""
    data = run.config.get("data") or {}
    return str(data.get("path") or data.get("source") or "training set").rstrip("/").rpartition("/")[2]


def _title(run: Recorded) -> str:
    return str((run.config.get("report") or {}).get("title") or "Memorization audit")


def _version(metrics: Mapping[str, Any]) -> str:
    return str(((metrics.get("provenance") or {}).get("versions") or {}).get("side-ray") or "")


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text).replace("\n", " ")
