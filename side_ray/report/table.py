"""The metrics as a table for the terminal and as CSV in long form."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from side_ray.report import findings, wording

_ALWAYS = ("method", "lambda", "n", "kind", "band", "from", "to", "ams_count", "ams")


def terminal_table(metrics: Mapping[str, Any]) -> Table:
    """One row per condition at the calibrated cut, or without one in the strictest cumulative band.

    Each share has its count beside it and its 95 % interval below it. Empty columns are left out.
    """
    criterion = findings.main_criterion(metrics)
    similarity = wording.similarity_name(metrics["similarity"])
    title = (
        "Nothing scored"
        if criterion is None
        else f"{criterion.title}: {wording.cut_text(metrics)}"
        if criterion.kind == "calibrated"
        else f"{criterion.title}, {similarity}"
    )
    if metrics.get("train_size"):
        title += f" · {wording.count(metrics['train_size'])} training images"
    table = Table(
        title=Text(title),
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )
    rows = [(each, band) for each in metrics["conditions"] if criterion is not None and (band := criterion.of(each))]
    columns = _columns(rows)
    table.add_column("method", no_wrap=True, vertical="top")
    for heading in ("λ", "N_G", *columns):
        table.add_column(heading, justify="right", no_wrap=True)
    for condition, band in rows:
        method, scale = Text(wording.method_name(condition["method"])), wording.scale_text(condition.get("lambda"))
        table.add_row(
            method, scale, wording.count(condition["n"]), *(_cell(condition, band, key) for key in columns.values())
        )
    table.caption = Text("\n".join(_legend(rows)))
    return table


def _legend(rows: list[tuple[Mapping[str, Any], dict[str, Any]]]) -> list[str]:
    lines = ["Each share: its count beside it, its 95% interval below it."] if rows else []
    return lines + (
        ["† fewer than 5 matches: interval is wide."] if any(findings.few_matches(band) for _, band in rows) else []
    )


def _columns(rows: list[tuple[Mapping[str, Any], dict[str, Any]]]) -> dict[str, str]:
    headings = {
        "AMS": "ams",
        "UMS": "ums",
        "UMS by\nbest match": "ums_best",
        "held-out\nmatches": "holdout_ams",
        "mean of\ntop 0.1%": "top",
    }
    return {heading: key for heading, key in headings.items() if any(_known(each, band, key) for each, band in rows)}


def _known(condition: Mapping[str, Any], band: Mapping[str, Any], key: str) -> bool:
    return (_top(condition) if key == "top" else band.get(key)) is not None


def _top(condition: Mapping[str, Any]) -> float | None:
    return (condition.get("top_mean") or {}).get("0.1")


def _cell(condition: Mapping[str, Any], band: Mapping[str, Any], key: str) -> Text:
    if key == "top":
        return Text(wording.number(_top(condition)))
    stem = key.removesuffix("_ams")
    line = wording.percent(band.get(key))
    if band.get(f"{stem}_count") is not None:
        line += f" {wording.count(band[f'{stem}_count'])}" + (
            "†" if key == "ams" and findings.few_matches(band) else ""
        )
    bounds = wording.interval(band.get(f"{stem}_ci"))
    return Text(f"{line}\n{bounds}" if bounds else line)


def metrics_csv(metrics: Mapping[str, Any]) -> str:
    """The metrics in long form: a row for each condition × kind (calibrated, cumulative, bands) × band.

    Shares are fractions of `n`, intervals 95 %. An unknown value is empty, and a column without any value is left out, as
    the held-out ones without a held-out set. The numbers of the condition as a whole (from percentile_95 on) are repeated
    in each of its rows.
    """
    return rows_csv(metrics_rows(metrics))


def metrics_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `metrics_csv`."""
    found = findings.criteria(metrics)
    return [
        _csv_row(metrics, each, criterion, band)
        for each in metrics["conditions"]
        for criterion in found
        if (band := criterion.of(each))
    ]


def rows_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV. An unknown value is empty. Without `columns`, one that has no value at all is left out."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or list(_ALWAYS)
    kept = columns or [name for name in names if name in _ALWAYS or any(row.get(name) is not None for row in rows)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, kept, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _csv_row(
    metrics: Mapping[str, Any], condition: Mapping[str, Any], criterion: findings.Criterion, band: Mapping[str, Any]
) -> dict[str, Any]:
    low, high = criterion.edges or (None, None)
    row = {
        "method": condition["method"],
        "lambda": condition.get("lambda"),
        "n": condition["n"],
        "train_size": metrics.get("train_size"),
        "kind": criterion.kind,
        "band": criterion.name,
        "from": low,
        "to": high,
    }
    for score in wording.SCORES:
        row |= {f"{score}_count": band.get(f"{score}_count"), score: band.get(score)} | _bounds(score, band)
    row |= {"holdout_count": band.get("holdout_count"), "holdout_ams": band.get("holdout_ams")} | _bounds(
        "holdout", band
    )
    row |= {"lift": band.get("lift")} | _bounds("lift", band) | {"percentile_95": condition.get("percentile_95")}
    row |= {f"top_mean_{share}": mean for share, mean in (condition.get("top_mean") or {}).items()}
    richness, second = condition.get("richness") or {}, condition.get("diffmemorize") or {}
    row |= {"diffmemorize": second.get("share"), "chao2": (richness.get("chao2") or {}).get("value")}
    row |= {"coverage": richness.get("coverage"), "excess": condition.get("excess")} | _bounds("excess", condition)
    over = condition.get("excess_over_random") or {}
    row |= {"excess_over_random": over.get("difference")} | _bounds(
        "excess_over_random", {"excess_over_random_ci": over.get("ci")}
    )
    row |= {"excess_over_random_p": over.get("p_value")}
    found = condition.get("discoveries") or {}
    row |= {f"distinct_at_fdr_{level}": each["distinct"] for level, each in found.items()}
    paid = condition.get("equal_cost") or {}
    row |= _second_opinions(metrics, condition)
    return row | {"equal_cost_samples": paid.get("samples"), "equal_cost_distinct": paid.get("distinct")}


def _second_opinions(metrics: Mapping[str, Any], condition: Mapping[str, Any]) -> dict[str, Any]:
    """Those by the first similarity, each with its reference, `…_unseen`."""
    found = next(iter((metrics.get("second_opinions") or {}).values()), None)
    rows = found["conditions"] if found else []
    own = next((each for each in rows if all(each[key] == condition.get(key) for key in ("method", "lambda"))), None)
    if found is None or own is None:
        return {}
    columns = {"ratio": "share", "authenticity": "share", "copying": "z", "frechet": "value"}
    row: dict[str, Any] = {}
    for measure, key in columns.items():
        here, there = own[measure] or {}, (found["unseen"] or {}).get(measure) or {}
        row |= {measure: here.get(key)} | _bounds(measure, {f"{measure}_ci": here.get("ci")})
        row |= {f"{measure}_unseen": there.get(key)}
    row["ratio_against_unseen"] = ((own["ratio"] or {}).get("against_unseen") or {}).get("share")
    return row | {f"frechet_{key}": (own["frechet"] or {}).get(key) for key in ("nearest", "informed")}


def _bounds(stem: str, band: Mapping[str, Any]) -> dict[str, float | None]:
    low, high = band.get(f"{stem}_ci") or (None, None)
    return {f"{stem}_low": low, f"{stem}_high": high}
