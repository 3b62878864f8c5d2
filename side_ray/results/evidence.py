"""The evidence of a run, from its scores: the verdict, the numbers of each condition beside its scores, and the ledger."""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from side_ray.config import Config
from side_ray.config.dpm import CAPTIONS, EMPTY, MEMBER_CAPTIONS
from side_ray.config.extract import SIDE
from side_ray.report.table import rows_csv
from side_ray.results.privacy import privacy_metrics
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import sample_flops
from side_ray.runs.dataset import read_labels
from side_ray.runs.plan import conditions
from side_ray.runs.scores import (
    read_competitions,
    read_crossed,
    read_cut,
    read_nearest,
    read_neighborhood,
    read_pool,
)
from side_ray.search import closeness_of
from side_ray.similarity import SIMILARITIES, similarity_of
from side_ray.statistics.cut import Cut
from side_ray.statistics.evidence.decoys import Entrants, entrants
from side_ray.statistics.evidence.excess import Excess, excess
from side_ray.statistics.evidence.ledger import (
    Evidence,
    Key,
    Surroundings,
    at_equal_cost,
    beyond_chance,
    leading_rows,
    ledger,
    overview,
    reach,
    weigh,
)
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.evidence.rates import crossfit, equal_rates
from side_ray.statistics.evidence.verdict import (
    FDR,
    Judgement,
    Verdict,
    with_members_captions,
    without_distinction,
)

K = TypeVar("K")
LEDGER = "ledger.parquet"
"""One row for each training image, see `side_ray.statistics.evidence.ledger`."""
SHOWN = 50
"""Images of the ledger that metrics.json, and so the page, lists."""
SAME = 1 - 1e-6
"""A cosine that is 1 but for rounding."""
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
    limit = limit_of(artifacts, cut)
    found, rates = {}, {}
    for each, competition in read_competitions(artifacts, cut):
        key = (str(each.method), each.scale)
        rates[key], found[key] = equal_rates(competition, pool, sign), competition.within(limit)
    evidence = weigh(pool, found, limit, cut.false_match_rate)
    costs = _costs(artifacts)
    paid = at_equal_cost({key: (pool, each) for key, each in found.items()}, costs) if costs else {}
    crossed = read_crossed(artifacts)
    verdict = _verdict(artifacts, evidence, cut)
    metrics["verdict"] = verdict.as_dict()
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
        if paid:
            row["equal_cost"] = paid[key]
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
        **overview(written),
    }
    target.write_table(LEDGER, pa.table(written | {"label": pa.array(written["label"], pa.int64())}))
    return np.asarray(written["q_value"])


def limit_of(artifacts: Artifacts, cut: Cut) -> float:
    """Closeness at the cut."""
    larger = SIMILARITIES[artifacts.config.score.similarity].larger_is_closer
    return float(closeness_of(np.float32(cut.value), larger))


def evidence_of(artifacts: Artifacts, cut: Cut) -> tuple[Evidence, Verdict]:
    """The evidence of all conditions, and the verdict. Raises Damaged."""
    limit = limit_of(artifacts, cut)
    competitions = read_competitions(artifacts, cut)
    found = {(str(each.method), each.scale): competition.within(limit) for each, competition in competitions}
    evidence = weigh(read_pool(artifacts), found, limit, cut.false_match_rate)
    return evidence, _verdict(artifacts, evidence, cut)


def _verdict(artifacts: Artifacts, evidence: Evidence, cut: Cut) -> Verdict:
    verdict = evidence.judgement.verdict
    if SIMILARITIES[artifacts.config.score.similarity].metric == "ip" and cut.value >= SAME:
        verdict = without_distinction(verdict)
    return with_members_captions(verdict) if artifacts.config.dpm.prompts == MEMBER_CAPTIONS else verdict


def descriptor_metrics(artifacts: Artifacts) -> dict[str, Any]:
    """`descriptors` of metrics.json: by name, the similarity of the config first, then those of `score.also`.

    Raises:
        Damaged: scores cannot be read.
    """
    found, revealed = {}, {}
    for name, each in artifacts.every.items():
        cut, similarity = read_cut(each), similarity_of(each.config.score)
        evidence, verdict = evidence_of(each, cut)
        revealed[name] = _revealed(evidence.judgement)
        rows = [{"method": method, "lambda": scale, **row} for (method, scale), row in evidence.conditions.items()]
        closer = "higher" if similarity.larger_is_closer else "lower"
        found[name] = {
            "similarity": {"name": similarity.name, "closer": closer, **similarity.params()},
            "cut": cut.value,
            "verdict": verdict.as_dict(),
            "conditions": rows,
        }
    own = next(iter(revealed.values()))
    return {name: row | {"also_by_first": len(np.intersect1d(revealed[name], own))} for name, row in found.items()}


def _revealed(judgement: Judgement) -> np.ndarray:
    """The groups of members that are revealed."""
    return judgement.pool.group[judgement.pool.is_member & (judgement.q <= FDR)]


def read_evidence(artifacts: Artifacts) -> tuple[PoolShape, Competition]:
    """The images of a config that has one condition, and its competition within the cut. Raises Damaged."""
    cut = read_cut(artifacts)
    ((_, found),) = read_competitions(artifacts, cut)
    return read_pool(artifacts), found.within(limit_of(artifacts, cut))


def side_by_side(settings: Mapping[K, Artifacts]) -> dict[K, dict[str, Any]]:
    """What single conditions show beyond chance: `excess`, `discoveries`, `equal_cost` … as in metrics.json.

    Args:
        settings: configs of one DPM and data set that have one condition each; those with the same synthetic set are compared
            with its Random.

    Raises:
        Damaged: scores cannot be read.
    """
    found: dict[K, tuple[PoolShape, Competition]] = {}
    excesses: dict[K, Excess] = {}
    random: dict[str, Excess] = {}
    costs: dict[K, float] = {}
    for key, artifacts in settings.items():
        pool, competition = found[key] = read_evidence(artifacts)
        excesses[key] = excess(competition, pool)
        if conditions(artifacts.config)[0].method == "random":
            random[artifacts.synthetic.directory] = excesses[key]
        for cost in _costs(artifacts).values():
            costs[key] = cost
    paid = at_equal_cost(found, costs) if len(costs) == len(found) > 0 else {}
    rows = {}
    for key, (pool, each) in found.items():
        base = random.get(settings[key].synthetic.directory)
        rows[key] = beyond_chance(each, pool, excesses[key], base) | ({"equal_cost": paid[key]} if paid else {})
    return rows


def _costs(artifacts: Artifacts) -> dict[Key, float]:
    """FLOPs of one sample by condition; empty where samples are given, and for an imported model, which is not loaded for it."""
    config = artifacts.config
    if config.given or config.dpm.kind == "import":
        return {}
    many = conditions(config)
    by_guidance = {guided: float(sample_flops(artifacts, guided)) for guided in {each.scale > 0 for each in many}}
    return {(str(each.method), each.scale): by_guidance[each.scale > 0] for each in many}


def _by_model_alone(config: Config, pool: PoolShape, found: dict[Key, Competition]) -> Entrants | None:
    """The competition for samples that the members have shaped through the DPM alone: not for those of a classifier that was
    trained on the members' labels, nor where prompts may be captions of one side alone: they would say themselves who the members
    are."""
    if config.dpm.prompts not in (None, CAPTIONS, EMPTY):
        return None
    methods = {"random"} if config.surrogate.labels == "classifier" else {"random", *SIDE}
    chosen = [each for (method, _), each in found.items() if method in methods]
    return entrants(pool, chosen) if chosen else None
