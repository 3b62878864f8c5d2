"""All conditions: a table per criterion, then the comparison with Random and means of the best values."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from side_ray.report import findings, wording
from side_ray.report.sections import PageData, PageSection


class Conditions(PageSection):
    heading = contents = "All conditions"

    def values(self, data: PageData) -> dict[str, Any]:
        metrics = data.metrics
        return {
            "rows": metrics["conditions"],
            "tables": _each_once([_table(metrics, each) for each in findings.criteria(metrics)]),
            "similarity": wording.similarity_name(metrics["similarity"]),
            **extra_columns(metrics),
        }


def extra_columns(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the conditions have besides their scores: `tops`, the per cents of the top means (as text), and whether there are
    `percentile` and `mcnemar`."""
    rows, criterion = metrics["conditions"], findings.main_criterion(metrics)
    calibrated = criterion is not None and criterion.kind == "calibrated"
    return {
        "tops": sorted(dict.fromkeys(share for each in rows for share in each.get("top_mean") or {}), key=float),
        "percentile": any(each.get("percentile_95") is not None for each in rows),
        "mcnemar": calibrated and any(each.get("mcnemar") for each in rows),
    }


def _each_once(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tables without those whose numbers stand in an earlier one, which takes their title too."""
    kept: list[dict[str, Any]] = []
    for table in tables:
        same = next((each for each in kept if _numbers(each) == _numbers(table)), None)
        if same is None:
            kept.append(table)
        else:
            same["title"] += f"; the same numbers: {table['title'][0].lower()}{table['title'][1:]}"
    return kept


def _numbers(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [band for _, band in table["rows"]]


def _table(metrics: Mapping[str, Any], criterion: findings.Criterion) -> dict[str, Any]:
    """One table: the conditions as rows, with the columns for which some condition has a value."""
    rows = [(condition, band) for condition in metrics["conditions"] if (band := criterion.of(condition))]
    wanted = {"AMS": "ams", "UMS": "ums", "UMS by best match": "ums_best", "Held-out false matches": "holdout_ams"}
    columns = {heading: key for heading, key in wanted.items() if any(band.get(key) is not None for _, band in rows)}
    calibrated = criterion.kind == "calibrated"
    return {
        "id": f"table-{criterion.kind}-{len(criterion.name)}-" + re.sub(r"[^A-Za-z0-9]", "-", criterion.name),
        "title": f"{criterion.title}: {wording.cut_text(metrics)}" if calibrated else criterion.title,
        "rows": rows,
        "columns": columns,
        # The count and interval of `holdout_ams` are named `holdout_count` and `holdout_ci`.
        "stems": {key: key.removesuffix("_ams") for key in columns.values()},
        "lift": any(band.get("lift") is not None or band.get("lift_ci") for _, band in rows),
        "few": findings.few_matches,
    }
