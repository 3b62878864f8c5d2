"""Reads the scores of a run: the calibrated cut, and the scores and hits of each condition."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.config import ScoreSection
from side_ray.errors import Damaged
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.shards import ShardSet, whole
from side_ray.similarity import SIMILARITIES
from side_ray.statistics.cut import Cut, calibrated_cut
from side_ray.statistics.hits import Hits, hits_from_columns
from side_ray.statistics.scores import ConditionScores, join
from side_ray.storage.sealed import read_table

HITS_SCHEMA = pa.schema(
    [("band", pa.string()), ("train_id", pa.int64()), ("sample_id", pa.int64()), ("count", pa.int64())]
)


def find_cut(artifacts: Artifacts) -> Cut | None:
    """The calibrated cut; None if there are no unseen images (possible with given samples only)."""
    return read_cut(artifacts) if artifacts.cut_shards else None


def read_cut(artifacts: Artifacts) -> Cut:
    """The calibrated cut, from the scores of the synthetic set against the calibration images.

    Raises:
        Damaged: shards of these scores cannot be read.
    """
    score = artifacts.config.score
    best = artifacts.cut.read_first(artifacts.cut_shards, ["best"]).column("best").to_numpy()
    larger_is_closer = SIMILARITIES[score.similarity].larger_is_closer
    return calibrated_cut(best, score.false_match_rate, larger_is_closer=larger_is_closer)


def read_conditions(artifacts: Artifacts) -> dict[Condition, ConditionScores]:
    """The scores of every condition of an audit. Raises what `read_scores` does."""
    many = conditions(artifacts.config)
    read = whole(lambda each: read_scores(artifacts, artifacts.scores(each), artifacts.hits(each)), many)
    return dict(zip(many, read, strict=True))


def read_scores(artifacts: Artifacts, scores: ShardSet, hits: ShardSet) -> ConditionScores:
    """The scores of N_G samples of one condition, sorted by sample id.

    Raises:
        Damaged: shards of scores are missing, not whole or of another plan, or their hits are.
    """
    section = artifacts.config.score
    return join(whole(lambda index: read_shard(section, scores, hits, index), range(artifacts.sample_shards)))


def read_shard(score: ScoreSection, scores: ShardSet, hits: ShardSet, index: int) -> ConditionScores:
    """The scores of one shard. Raises what `read_scores` does."""
    table = scores.read(index)
    best, best_id = (table.column(name).to_numpy() for name in ("best", "best_id"))
    holdout = table.column("holdout_best").to_numpy() if "holdout_best" in table.column_names else None
    second = None
    if SIMILARITIES[score.similarity].pixel_distances:
        second = pc.list_element(table.column("neighbor_values"), 1).to_numpy()
    return ConditionScores(best, best_id, _read_hits(scores, hits, index), holdout, second)


def _read_hits(scores: ShardSet, hits: ShardSet, index: int) -> Hits:
    try:
        columns = read_table(hits.store, hits.key(index), HITS_SCHEMA.names).to_pydict()
    except Damaged as damage:
        # Hits are made together with their scores. Naming the scores has both made again.
        raise Damaged(damage.keys, damage.reason, [scores.key(index)]) from damage
    return hits_from_columns(*(np.array(columns[name]) for name in ("band", "train_id", "count", "sample_id")))
