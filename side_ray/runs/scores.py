"""Reads the scores of a run: the calibrated cut, the strata, and the scores, hits and competition of each condition."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.config import ScoreSection
from side_ray.errors import Damaged
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_groups, read_labels
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet, shards_of, whole
from side_ray.search import Neighbors, closeness_of, distances
from side_ray.similarity import SIMILARITIES, similarity_of
from side_ray.similarity.base import Similarity
from side_ray.sources.select import SPLITS, Split
from side_ray.statistics.bands import bands_of
from side_ray.statistics.changes import Missed
from side_ray.statistics.cut import Cut, calibrated_cut
from side_ray.statistics.evidence.pool import Competition, PoolShape, compete
from side_ray.statistics.evidence.rates import loosest
from side_ray.statistics.evidence.strata import Strata, split_by_class
from side_ray.statistics.hits import Hits, hits_from_columns
from side_ray.statistics.scores import ConditionScores, join, reaches
from side_ray.storage import Store
from side_ray.storage.sealed import read_table

HITS_SCHEMA = pa.schema(
    [("band", pa.string()), ("train_id", pa.int64()), ("sample_id", pa.int64()), ("count", pa.int64())]
)

Nearest = tuple[np.ndarray, np.ndarray]
"""float32 [N], values of the nearest images, and int64 [N], their ids."""

NEIGHBORS = ["neighbor_ids", "neighbor_values", "unseen_neighbor_ids", "unseen_neighbor_values"]
"""Columns of scores: the nearest members and unseen images of each sample, in one unit."""
CENTROIDS = "centroids.parquet"
"""stratum int64 · centroid list<float32>, of features of the similarity."""
STRATA = "strata.parquet"
"""split · id · stratum, of every image of the audit."""


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


def read_probes(artifacts: Artifacts) -> dict[str, Missed]:
    """The outcome by change of `artifacts.probes`. Raises what `read_scores` does."""
    changes = artifacts.probes
    if not changes:
        return {}
    condition, count = conditions(artifacts.config)[0], artifacts.probe_shards
    bands, cut = bands_of(artifacts.config), find_cut(artifacts)

    def matched(scores: ShardSet) -> np.ndarray:
        values = scores.read_first(count, ["best"]).column("best").to_numpy()
        if cut is not None:
            return reaches(values, cut, bands.larger_is_closer)
        levels = bands.levels()
        found: np.ndarray = np.append(levels.named(bands.names[-1]), False)[levels.assign(values)]
        return found

    plain = matched(artifacts.scores(condition))
    missed = {change: matched(artifacts.changed(condition, change)) & ~plain for change in changes}
    return {change: Missed(len(plain), int(plain.sum()), int(each.sum())) for change, each in missed.items()}


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
    if SIMILARITIES[score.similarity].pixel_distances and len(table.column("neighbor_values")[0]) > 1:
        second = pc.list_element(table.column("neighbor_values"), 1).to_numpy()
    return ConditionScores(best, best_id, _read_hits(scores, hits, index), holdout, second)


def _read_hits(scores: ShardSet, hits: ShardSet, index: int) -> Hits:
    try:
        columns = read_table(hits.store, hits.key(index), HITS_SCHEMA.names).to_pydict()
    except Damaged as damage:
        # Hits are made together with their scores. Naming the scores has both made again.
        raise Damaged(damage.keys, damage.reason, [scores.key(index)]) from damage
    return hits_from_columns(*(np.array(columns[name]) for name in ("band", "train_id", "count", "sample_id")))


def read_centroids(artifact: Artifact) -> Strata:
    """What samples are assigned to strata by."""
    table = _read(artifact, CENTROIDS)
    return Strata(np.stack(table.column("centroid").to_numpy()), table.column("stratum").to_numpy())


def read_pool(artifacts: Artifacts) -> PoolShape:
    """The images of an audit: members, then the unseen ones of `calibration` and `holdout`, each by id."""
    sizes, store = artifacts.sizes, artifacts.run.store
    shape = images_of_pool(store, artifacts.prepare.key, sizes)
    if artifacts.cut_shards:
        table = _read(artifacts.strata, STRATA)
        parts = [
            table.filter(pc.field("split") == split).sort_by("id").column("stratum").to_numpy() for split in SPLITS
        ]
        stratum = np.concatenate(parts)
        known = (read_labels(store, artifacts.prepare.key, split) for split in SPLITS)
        labels = [each for each in known if each is not None]
        if len(labels) == len(SPLITS):
            stratum = split_by_class(stratum, np.concatenate(labels), shape.is_member)
        larger = SIMILARITIES[artifacts.config.score.similarity].larger_is_closer
        around = [_whole(artifacts.neighborhood(split), sizes[split], ["typical"]) for split in SPLITS]
        typical = closeness_of(pa.concat_tables(around).column("typical").to_numpy(), larger).astype(np.float64)
        return replace(shape, stratum=stratum, typical=typical)
    return shape


def images_of_pool(store: Store, prepared: str, sizes: Mapping[Split, int]) -> PoolShape:
    """The images of an audit with their groups, as if of one kind.

    Args:
        prepared: key of the prepared images.
        sizes: of each split.
    """
    shape = PoolShape.plain(sizes["member"], sizes["calibration"] + sizes["holdout"])
    start = 0
    for split in SPLITS:
        found = read_groups(store, prepared, split, sizes[split])
        shape.group[start + found.ids] = start + found.groups
        start += sizes[split]
    return shape


def read_competitions(artifacts: Artifacts, cut: Cut) -> Iterator[tuple[Condition, Competition]]:
    """The competition of members and unseen images for the samples of every condition, one condition in memory at a time.

    Its pairs reach down to the cut, and to the loosest rate of unseen matches (`rates.RATES`).

    Raises:
        Damaged: a shard of scores cannot be read.
    """
    similarity, sizes = similarity_of(artifacts.config.score), artifacts.sizes
    shape = PoolShape.plain(sizes["member"], sizes["calibration"] + sizes["holdout"])
    for condition in conditions(artifacts.config):
        parts: list[Competition] = []
        limit = -np.inf
        for index in range(artifacts.sample_shards):
            table = artifacts.scores(condition).read(index, NEIGHBORS)
            found = compete_table(table, shape.members, similarity, limit)
            if not parts:
                limit = min(
                    float(closeness_of(np.float32(cut.value), similarity.larger_is_closer)), loosest(found, shape)
                )
            parts.append(found.within(limit))
        yield condition, Competition.join(parts)


def compete_table(table: pa.Table, members: int, similarity: Similarity, limit: float) -> Competition:
    """The competition for the samples of a shard of scores, of which `table` has the columns `NEIGHBORS`; see `compete`."""
    ids, values, unseen_ids, unseen_values = (_matrix(table.column(name)) for name in NEIGHBORS)
    return compete(Neighbors(ids, values), Neighbors(unseen_ids, unseen_values), members, similarity, limit)


def read_crossed(artifacts: Artifacts) -> tuple[Cut, Cut]:
    """The cuts that the calibration images and the holdout images give. Raises what `read_cut` does."""
    score = artifacts.config.score
    table = artifacts.cut.read_first(artifacts.cut_shards, ["best", "holdout_best"])
    larger = SIMILARITIES[score.similarity].larger_is_closer
    first, second = (
        calibrated_cut(table.column(name).to_numpy(), score.false_match_rate, larger_is_closer=larger)
        for name in ("best", "holdout_best")
    )
    return first, second


def read_nearest(artifacts: Artifacts, condition: Condition) -> tuple[np.ndarray, Nearest, Nearest]:
    """Each sample's best value against the members, and its nearest images of `calibration` and of `holdout`: values and ids.

    Raises:
        Damaged: a shard of scores cannot be read.
    """
    names = ["best", "calibration_best", "holdout_best", "calibration_best_id", "holdout_best_id"]
    table = artifacts.scores(condition).read_first(artifacts.sample_shards, names)
    best, calibration, holdout, calibration_id, holdout_id = (table.column(name).to_numpy() for name in names)
    return best, (calibration, calibration_id), (holdout, holdout_id)


def read_neighborhood(artifacts: Artifacts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By member: the mean distance float64 to the nearest images of the audit, and value float32 and number int64 of the nearest
    unseen image, calibration images first. Raises Damaged."""
    names = ["distance", "nearest_unseen", "nearest_unseen_id"]
    table = _whole(artifacts.neighborhood("member"), artifacts.sizes["member"], names)
    distance, value, number = (table.column(name).to_numpy() for name in names)
    return distance, value, number


@dataclass(frozen=True)
class TwoNearest:
    """How near N images are to the training set."""

    image: np.ndarray
    """int64 [N], the nearest training image."""
    distance: np.ndarray
    """float64 [N], to it."""
    two: np.ndarray
    """float64 [N, 2], to the nearest and second-nearest one, in any unit of each image; [N, 1] where there is one."""
    unseen_two: np.ndarray
    """The same of unseen images; [N, 0] without any."""


def read_two_nearest(artifacts: Artifacts, condition: Condition) -> TwoNearest:
    """Of the samples of one condition. Raises what `read_scores` does."""
    scores, metric = artifacts.scores(condition), SIMILARITIES[artifacts.config.score.similarity].metric
    unseen = bool(artifacts.sizes["calibration"] + artifacts.sizes["holdout"])
    names = ["best_id", "distance", "neighbor_values", *(["unseen_neighbor_values"] if unseen else [])]
    parts: list[list[np.ndarray]] = []
    for index in range(artifacts.sample_shards):
        table = scores.read(index, names)
        lists = [distances(_matrix(table.column(name))[:, :2], metric) for name in names[2:]]
        none = [] if unseen else [np.empty((table.num_rows, 0))]
        parts.append([*(table.column(name).to_numpy() for name in names[:2]), *lists, *none])
    return TwoNearest(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def read_among_members(artifacts: Artifacts, split: Split) -> TwoNearest:
    """Of the images of a split; a member is compared with the others. Raises Damaged."""
    names = ["member_id", "member_distance", "member_second"]
    table = _whole(artifacts.neighborhood(split), artifacts.sizes[split], names)
    image, distance, second = (table.column(name).to_numpy() for name in names)
    return TwoNearest(image, distance, np.stack([distance, second], 1), np.empty((len(image), 0)))


def _whole(shards: ShardSet, size: int, columns: list[str]) -> pa.Table:
    return shards.read_first(shards_of(size, shards.rows), columns)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.list_flatten(column).to_numpy().reshape(len(column), -1))


def _read(artifact: Artifact, name: str) -> pa.Table:
    return read_table(artifact.store, f"{artifact.key}/{name}")
