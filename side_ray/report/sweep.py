"""The results of a sweep: one table in long form with the columns of metrics.csv, and the best setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from side_ray.report import wording
from side_ray.report.table import metrics_rows
from side_ray.report.verdict.sentences import FDR

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclass(frozen=True)
class Outcome:
    """The result of one setting."""

    name: str
    columns: Mapping[str, Any]
    """The swept values: labels, classes, arch, steps, interval_from, interval_to."""
    method: str
    scale: float
    status: str
    planned: int
    """The planned N_G."""
    metrics: Mapping[str, Any] | None
    """An entry of `conditions` of metrics.json, for the samples that were made, with the `cut`; None without samples."""
    error: str = ""

    def value(self, score: str, band: str) -> float | None:
        """See `value_of`; None without metrics."""
        return None if self.metrics is None else value_of(self.metrics, score, band)


def value_of(metrics: Mapping[str, Any], score: str, band: str) -> float:
    """A condition's `score` (ams, ums, ums_best) in the cumulative band `band`, or at the cut if `band` is calibrated."""
    return float(_entry(metrics, band)[score])


def _entry(metrics: Mapping[str, Any], band: str) -> Mapping[str, Any]:
    entry: Mapping[str, Any] = metrics["calibrated"] if band == "calibrated" else metrics["cumulative"][band]
    return entry


def sweep_rows(outcomes: Sequence[Outcome], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per setting × kind of cut × band: the settings' columns, `status` and `planned`, then those of metrics.csv.

    Args:
        outcomes: in the order of the table.
        shared: the part of metrics.json that all settings share: `similarity`, `train_size`. Each outcome has its own cut.
    """
    rows = []
    for outcome in outcomes:
        head = {**outcome.columns, "status": outcome.status, "planned": outcome.planned}
        if outcome.metrics is None:
            rows.append({**head, "method": outcome.method, "lambda": outcome.scale, "n": 0})
            continue
        condition = {"method": outcome.method, "lambda": outcome.scale, **outcome.metrics}
        own = {**shared, "cut": outcome.metrics["cut"], "conditions": [condition]}
        rows += [{**head, **row} for row in metrics_rows(own)]
    return rows


def best(outcomes: Sequence[Outcome], score: str, band: str) -> Outcome | None:
    """The finished setting with the highest value, and the first among equals."""
    finished = [each for each in outcomes if each.status == FINISHED and each.value(score, band) is not None]
    return max(finished, key=lambda each: each.value(score, band) or 0.0, default=None)


def samples_made(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """The number of samples made, and the number planned."""
    return sum(each.metrics["n"] for each in outcomes if each.metrics), sum(each.planned for each in outcomes)


def terminal_table(outcomes: Sequence[Outcome], score: str, band: str) -> Table:
    """AMS, UMS and held-out matches of each setting by the sweep's own criterion, with the best setting marked."""
    where = "calibrated cut" if band == "calibrated" else f"cumulative band {band}"
    table = Table(title=f"Sweep, {where}", box=SIMPLE_HEAD, title_justify="left")
    for column in (
        *("setting", "samples", "AMS", "UMS", "UMS by best match", "held out"),
        *("excess at the cut", "distinct at FDR 5%", "at equal cost", ""),
    ):
        table.add_column(column, justify="left" if column in ("setting", "") else "right")
    winner = best(outcomes, score, band)
    for each in outcomes:
        cells = [Text("–")] * 7
        if each.metrics is not None:
            entry = _entry(each.metrics, band)
            cells = [_share(entry, name) for name in ("ams", "ums", "ums_best")] + [_share(entry, "holdout_ams")]
            found, paid = each.metrics.get("discoveries") or {}, each.metrics.get("equal_cost") or {}
            cells += [_share(each.metrics, "excess"), Text(wording.count((found.get(FDR) or {}).get("distinct")))]
            cells += [Text(f"{wording.count(paid['distinct'])} in {wording.count(paid['samples'])}" if paid else "–")]
        count = wording.count(each.metrics["n"]) if each.metrics else "0"
        said = "best" if each is winner else "" if each.status == FINISHED else each.status
        table.add_row(Text(each.name), count, *cells, said, style="bold" if each is winner else "")
    return table


def _share(entry: Mapping[str, Any], name: str) -> Text:
    bounds = wording.interval(entry.get(f"{name.removesuffix('_ams')}_ci"))
    return Text(f"{wording.percent(entry.get(name))} {bounds}".rstrip())
