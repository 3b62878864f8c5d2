"""The evidence of a run, from its scores: the verdict, the numbers of each condition beside its scores, and the ledger."""

from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.config import Config
from side_ray.report.table import rows_csv
from side_ray.results.privacy import privacy_metrics
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_labels
from side_ray.runs.plan import conditions
from side_ray.runs.scores import read_competitions, read_crossed, read_nearest, read_neighborhood, read_pool
from side_ray.search import closeness_of
from side_ray.similarity import SIMILARITIES
from side_ray.statistics.cut import Cut
from side_ray.statistics.evidence.decoys import Entrants, entrants
from side_ray.statistics.evidence.ledger import Key, Surroundings, leading_rows, ledger, reach, weigh
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.evidence.rates import crossfit, equal_rates

LEDGER = "ledger.parquet"
"""One row for each training image, see `side_ray.statistics.evidence.ledger`."""
SHOWN = 50
"""Images of the ledger that metrics.json, and so the page, lists."""
RATES = "equal_rates.csv"
"""`equal_rates` of every condition."""


def add_evidence(artifacts: Artifacts, cut: Cut, metrics: dict[str, Any]) -> np.ndarray:
    """Add the verdict and the evidence of each condition to the metrics; write `LEDGER` and `RATES`.

    Returns:
        float64 [m], the q-value of each training image.

    Raises:
        Damaged: scores cannot be read.
    """
    larger = SIMILARITIES[artifacts.config.score.similarity].larger_is_closer
    pool, sign, target = read_pool(artifacts), 1 if larger else -1, artifacts.report
    limit = float(closeness_of(np.float32(cut.value), larger))
    found, rates = {}, {}
    for each, competition in read_competitions(artifacts, cut):
        key = (str(each.method), each.scale)
        rates[key], found[key] = equal_rates(competition, pool, sign), competition.within(limit)
    evidence = weigh(pool, found, limit, cut.false_match_rate)
    crossed = read_crossed(artifacts)
    metrics["verdict"] = evidence.judgement.verdict.as_dict()
    metrics["strata"] = int(pool.stratum.max()) + 1
    metrics["crossfit"] = dict(zip(("calibration_cut", "holdout_cut"), (each.value for each in crossed), strict=True))
    table = []
    for condition, row in zip(conditions(artifacts.config), metrics["conditions"], strict=True):
        key = row["method"], row["lambda"]
        best, *unseen = read_nearest(artifacts, condition)
        row |= evidence.conditions[key] | {
            "equal_rates": rates[key],
            "crossfit": crossfit(best, unseen, crossed, larger),
        }
        for point in rates[key]:
            low, high = point["ci"]
            table.append({"method": key[0], "lambda": key[1], **point, "low": low, "high": high})
    columns = ["method", "lambda", "rate", "cut", "unseen", "matches", "low", "high"]
    target.write(RATES, rows_csv(table, columns).encode())
    labels = read_labels(artifacts.run.store, artifacts.prepare.key, "member")
    around = Surroundings(*read_neighborhood(artifacts))
    written = ledger(pool, evidence.judgement, found, labels, around, sign)
    for place, row in enumerate(metrics["conditions"]):
        row["reach"] = reach(written, place, row["n"])
    metrics["privacy"] = privacy_metrics(artifacts, pool, _by_model_alone(artifacts.config, pool, found))
    once = written["train_id"] == written["group"]
    metrics["ledger"] = {
        **{name: int((written[name] & once).sum()) for name in ("revealed", "copied")},
        "rows": leading_rows(written, SHOWN),
    }
    target.write_table(LEDGER, pa.table(written | {"label": pa.array(written["label"], pa.int64())}))
    return np.asarray(written["q_value"])


def _by_model_alone(config: Config, pool: PoolShape, found: dict[Key, Competition]) -> Entrants | None:
    """The competition for samples that the members have shaped through the DPM alone: not for those of a classifier that was
    trained on the members' labels, which would say itself who they are."""
    methods = {"random"} if config.surrogate.labels == "classifier" else {"random", "td"}
    chosen = [each for (method, _), each in found.items() if method in methods]
    return entrants(pool, chosen) if chosen else None
