"""The scores of a run, read back: the calibrated cut, and what a condition's samples match."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from side_ray.config import ScoreSection
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.shards import DamagedShard, ShardSet
from side_ray.similarity import SIMILARITIES
from side_ray.statistics.cut import Cut, calibrated_cut
from side_ray.statistics.hits import Hits, hits_from_columns
from side_ray.statistics.scores import ConditionScores, join

HITS_SCHEMA = pa.schema(
    [("band", pa.string()), ("train_id", pa.int64()), ("sample_id", pa.int64()), ("count", pa.int64())]
)


def find_cut(artifacts: Artifacts) -> Cut | None:
    """The calibrated cut; None where samples are given and there are no images that nothing was trained on."""
    return read_cut(artifacts) if artifacts.cut_shards else None


def read_cut(artifacts: Artifacts) -> Cut:
    """The calibrated cut, from the synthetic set's scores against images that nothing was trained on."""
    score = artifacts.config.score
    best = artifacts.cut.read_first(artifacts.cut_shards, ["best"]).column("best").to_numpy()
    larger_is_closer = SIMILARITIES[score.similarity].larger_is_closer
    return calibrated_cut(best, score.false_match_rate, larger_is_closer=larger_is_closer)


def read_conditions(artifacts: Artifacts) -> dict[Condition, ConditionScores]:
    """The scores of every condition of an audit."""
    return {
        each: read_scores(artifacts, artifacts.scores(each), artifacts.hits(each))
        for each in conditions(artifacts.config)
    }


def read_scores(artifacts: Artifacts, scores: ShardSet, hits: ShardSet) -> ConditionScores:
    """The scores of N_G samples of one condition, in the order of the sample ids.

    Raises:
        DamagedShard: a shard of scores is missing, cut short or belongs to another plan, or its hits are or do.
    """
    section = artifacts.config.score
    return join([read_shard(section, scores, hits, index) for index in range(artifacts.sample_shards)])


def read_shard(score: ScoreSection, scores: ShardSet, hits: ShardSet, index: int) -> ConditionScores:
    """The scores of one shard; raises what `read_scores` does."""
    table = scores.read(index)
    best, best_id = (table.column(name).to_numpy() for name in ("best", "best_id"))
    holdout = table.column("holdout_best").to_numpy() if "holdout_best" in table.column_names else None
    second = None
    if SIMILARITIES[score.similarity].pixel_distances:
        second = pc.list_element(table.column("neighbor_values"), 1).to_numpy()
    return ConditionScores(best, best_id, _read_hits(scores, hits, index), holdout, second)


def _read_hits(scores: ShardSet, hits: ShardSet, index: int) -> Hits:
    try:
        with hits.store.open_input(hits.key(index)) as source:
            columns = pq.read_table(source, columns=HITS_SCHEMA.names).to_pydict()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        # A shard of scores says that its hits are written: it is the scores that are made again.
        raise DamagedShard(scores.key(index), f"has no hits that can be read ({error})") from error
    return hits_from_columns(*(np.array(columns[name]) for name in ("band", "train_id", "count", "sample_id")))
