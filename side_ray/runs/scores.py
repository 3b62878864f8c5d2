"""The scores of a run, read back."""

from typing import Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from side_ray.config import Config, ScoreSection
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.shards import ShardSet
from side_ray.similarity import SIMILARITIES
from side_ray.statistics.cut import Cut, calibrated_cut
from side_ray.statistics.hits import hits_from_columns
from side_ray.statistics.scores import ConditionScores, join

Split = Literal["member", "calibration", "holdout"]


def hits_key(scores: ShardSet, index: int) -> str:
    """Where the hits of one scored shard lie: every training image in a band, Eq. 15."""
    return f"{scores.directory}/hits-{index:06d}.parquet"


def sizes_of(artifacts: Artifacts) -> dict[Split, int]:
    """Images in each split."""
    info = artifacts.prepare.info()
    return {split: info[split] for split in ("member", "calibration", "holdout")}


def find_cut(config: Config, artifacts: Artifacts) -> Cut | None:
    """The calibrated cut; None where samples are given and no image that nothing was trained on."""
    return read_cut(config, artifacts) if artifacts.cut_shards else None


def read_cut(config: Config, artifacts: Artifacts) -> Cut:
    """The calibrated cut, from the synthetic set's scores against images that nothing was trained on."""
    best = artifacts.cut.read_first(artifacts.cut_shards, ["best"]).column("best").to_numpy()
    return calibrated_cut(
        best, config.score.false_match_rate, larger_is_closer=SIMILARITIES[config.score.similarity].larger_is_closer
    )


def read_scores(config: Config, scores: ShardSet, count: int) -> ConditionScores:
    """The scores of the first `count` shards of one condition, in the order of the sample ids."""
    return join([read_shard(config.score, scores, index) for index in range(count)])


def read_shard(score: ScoreSection, scores: ShardSet, index: int) -> ConditionScores:
    """The scores of one shard."""
    table = scores.read(index)
    best, best_id = (table.column(name).to_numpy() for name in ("best", "best_id"))
    holdout = table.column("holdout_best").to_numpy() if "holdout_best" in table.column_names else None
    second = None
    if SIMILARITIES[score.similarity].pixel_distances:
        second = pc.list_element(table.column("neighbor_values"), 1).to_numpy()
    with scores.store.open_input(hits_key(scores, index)) as source:
        columns = pq.read_table(source).to_pydict()
    hits = hits_from_columns(*(np.array(columns[n]) for n in ("band", "train_id", "count", "sample_id")))
    return ConditionScores(best, best_id, hits, holdout, second)
