"""Recomputes a table or figure of the paper, from a new run of a preset or from a finished run."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.algorithm import run_steps, run_until
from side_ray.config import Config
from side_ray.errors import Damaged, UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.report import findings, wording
from side_ray.report.paper.classes import classes_table
from side_ray.report.paper.printed import DATASETS, Recomputed
from side_ray.report.paper.scales import figure4, table1, table3, table4
from side_ray.report.paper.unique import figure5
from side_ray.report.table import rows_csv
from side_ray.results.evidence import read_evidence
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.run import Artifact, Run
from side_ray.runs.scores import read_cut, read_scores
from side_ray.runs.shards import ShardSet
from side_ray.search import closeness_of
from side_ray.stages.extract import extract
from side_ray.stages.label import FOUND
from side_ray.stages.score import score
from side_ray.statistics.bands import bands_of
from side_ray.statistics.evidence.excess import excess
from side_ray.statistics.evidence.ledger import distinct
from side_ray.statistics.growth import Growth, growth
from side_ray.statistics.richness import at_size
from side_ray.statistics.scores import condition_metrics
from side_ray.storage import Store, open_store
from side_ray.storage.sealed import write_table
from side_ray.studies.presets import BY_CLASSES, SCALE
from side_ray.studies.sweep import SHARED, share_stages
from side_ray.studies.sweep_plan import SweepPlan

FROM_METRICS: dict[str, Callable[[Mapping[str, Any]], Recomputed]] = {
    "table1": table1,
    "table3": table3,
    "table4": table4,
    "fig4": figure4,
}
COMPARED = {"table1": ("random", "ti", "td")}
"""The methods that a table of one run is about; Random and SIDE for those that are not named here."""


def reproduce(table: str, config: Config, reporter: Reporter) -> tuple[Store, Recomputed]:
    """Run what a table needs and recompute it. Writes the files to `<run>/reproduce/<table>/`.

    Args:
        table: one of `presets.TABLES`.
        config: see `presets.preset_config`.

    Raises:
        UserError: see the stages.
    """
    if table in BY_CLASSES:
        plan = SweepPlan(Artifacts.open(config))
        found = by_classes(table, plan, reporter)
        store = plan.base.run.store
    else:
        store = run_until("report", config, reporter).run.store
        found = of_run(table, store)
    write(store, found)
    return store, found


def reproduce_from(table: str, uri: str, endpoint: str | None) -> tuple[Store, Recomputed]:
    """Recompute a table from the finished run at `uri`.

    Raises:
        UserError: the table needs several runs, or the run has no report.
    """
    if table in BY_CLASSES:
        raise UserError(f"{table} needs one student per number of classes; run it with --preset instead of --run")
    store = open_store(uri, endpoint=endpoint)
    found = of_run(table, store)
    write(store, found)
    return store, found


def of_run(table: str, store: Store) -> Recomputed:
    """A table from the newest report of a run and its scores.

    Raises:
        UserError: there is no report, or it has none of the methods that the table compares.
    """
    try:
        report = Artifact(store, Run(store).latest()["report"])
        metrics = report.read_json("metrics.json")
    except (FileNotFoundError, KeyError):
        raise UserError(f"{store.uri}: holds no report; run side-ray audit first, or check the path") from None
    except Damaged as damage:
        raise UserError(f"{store.uri}: {damage}; run side-ray audit, which makes it again") from None
    wanted = COMPARED.get(table, ("random", "td"))
    if not set(wanted) & set(present := findings.methods(metrics)):
        raise UserError(
            f"{table} compares {', '.join(map(wording.method_name, wanted))}; {store.uri} has only "
            f"{', '.join(map(wording.method_name, present))}: give the run of an audit that samples a model"
        )
    if table in FROM_METRICS:
        return FROM_METRICS[table](metrics)
    return figure5(*_growths(store, metrics))


def write(store: Store, found: Recomputed) -> None:
    """Write the data (CSV, Parquet), the figure (SVG) and the text."""
    key = f"reproduce/{found.name}/{found.name}"
    store.write(f"{key}.csv", rows_csv(found.rows).encode())
    write_table(store, f"{key}.parquet", pa.Table.from_pylist(found.rows))
    store.write(f"{key}.svg", found.svg.encode())
    store.write(f"{key}.txt", f"{found.title}\n\n{found.text}".encode())


def by_classes(table: str, plan: SweepPlan, reporter: Reporter) -> Recomputed:
    """Table 2 and Figure 7: one student per number of classes C, one λ, a fixed number of images per class."""
    share_stages(plan, reporter)
    guided = [each for each in plan.settings if each.scale]
    bands = bands_of(plan.config)
    band = "low" if "low" in bands.names else bands.names[0]
    found = {}
    for each in guided:
        artifacts = plan.artifacts[each]
        run_steps(Audit(artifacts, reporter), [*SHARED, extract, score])
        found[each] = read_scores(artifacts, artifacts.scores(each.condition), artifacts.hits(each.condition))
    equal = min(scores.best.size for scores in found.values())
    rows = []
    for each, scores in found.items():
        artifacts = plan.artifacts[each]
        cut = read_cut(artifacts)
        entry = condition_metrics(scores, bands, cut, train_size=plan.base.distinct["member"])["bands"][band]
        n = int(scores.best.size)
        pool, competition = read_evidence(artifacts)
        beyond = excess(competition, pool)
        rows.append(
            {
                "classes": each.classes,
                "kept": artifacts.surrogate.read_json(FOUND)["classes"],
                "n": n,
                **{name: entry[name] for name in ("ams_count", "ams", "ums_count", "ums")},
                "equal_n": equal,
                "ums_equal": at_size(scores.hits[band].counts, n, equal)["ums"],
                "holdout_ams": entry["holdout_ams"],
                "excess": beyond.value,
                "excess_low": beyond.ci[0],
                "excess_high": beyond.ci[1],
                "distinct_equal": distinct(pool, competition.first(equal)) / equal,
            }
        )
    about = {
        "band": band,
        "scale": SCALE,
        "per_class": plan.config.extract.samples_per_target,
        "dataset": DATASETS.get(plan.config.data.source),
    }
    return classes_table(table, rows, about)


def _growths(store: Store, metrics: Mapping[str, Any]) -> tuple[dict[str, Growth], Mapping[str, Any], str]:
    """Growth curves of Random and of SIDE at its best λ, the metrics, and a phrase for what counts as a match."""
    criterion = findings.main_criterion(metrics)
    assert criterion is not None
    curves = {}
    words = f"every image within the calibrated cut ({wording.cut_text(metrics)})"
    rows = metrics["provenance"]["config"]["extract"]["shard_size"]
    for condition in (findings.best_condition(metrics, method, criterion) for method in ("random", "td")):
        if condition is None:
            continue
        # Those that the report was made from: `latest.json` may already point to scores of another λ list.
        scores = metrics["provenance"]["artifacts"]["scores"]
        directory = scores[Condition(condition["method"], float(condition["lambda"])).name]
        shards = ShardSet(store, directory, directory.split("/")[1], rows)
        samples, images, complete = _pairs(shards, condition["n"], metrics)
        if not complete:
            words = f"best matches within the calibrated cut ({wording.cut_text(metrics)})"
        curves[wording.condition_name(condition)] = growth(samples, images, condition["n"])
    return curves, metrics, words


def _pairs(shards: ShardSet, n: int, metrics: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs within the calibrated cut: sample ids int64 [P], training ids int64 [P], and whether these are all pairs.

    If there may be more pairs than the stored neighbours, only the best match of each sample is returned.
    """
    larger = not wording.lower_is_closer(metrics["similarity"])
    table = shards.read_first(n // shards.rows, ["sample_id", "best_id", "best", "neighbor_ids", "neighbor_values"])
    ids = table.column("sample_id").to_numpy()
    neighbors = np.stack(table.column("neighbor_ids").to_numpy(zero_copy_only=False))
    values = np.stack(table.column("neighbor_values").to_numpy(zero_copy_only=False))
    within = closeness_of(values, larger) >= closeness_of(np.float32(metrics["cut"]), larger)
    if neighbors.shape[1] < (metrics.get("train_distinct") or metrics["train_size"]) and within[:, -1].any():
        matched = within[:, 0]
        return ids[matched], pc.cast(table.column("best_id"), pa.int64()).to_numpy()[matched], False
    row, column = np.nonzero(within)
    return ids[row], neighbors[row, column], True
