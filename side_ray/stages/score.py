"""Step: score every sample against the members and the unseen images, exactly, and set the calibrated cut.

AMS and UMS (Eq. 14, 15) are computed from the output of this step. If the training features are small, every scorer holds them
in one index. Otherwise they are split over search actors: each batch of queries goes to all of them, and merging their results
is exact.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.config import ClusterSection, Config, ScoreSection
from side_ray.errors import Damaged, RunError
from side_ray.execution.audit import Audit
from side_ray.execution.beside.fed_pool import FedPool
from side_ray.execution.beside.room import alive_nodes, spare_actors
from side_ray.execution.derived.ceilings import ceilings_metrics, measure_ceilings, some_members
from side_ray.execution.derived.embed import embed, stored_descriptors
from side_ray.execution.derived.frechet import measure_frechet
from side_ray.execution.derived.reconstruct import reconstruct, write_ceiling
from side_ray.execution.search_actors import PIECE, SearchActors, SearchPart, ask, uses_gpu
from side_ray.execution.session import ensure_ray, run_remotely
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, run_shards
from side_ray.images import CHANGES, decode_column
from side_ray.registry import Carrier
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import SplitShards, StoredFeatures, decode_features, feature_columns, read_groups, read_split
from side_ray.runs.plan import conditions
from side_ray.runs.run import Artifact
from side_ray.runs.scores import CENTROIDS, HITS_SCHEMA, STRATA, find_cut, read_centroids, read_probes
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.search import Counts, Levels, Neighbors, distances, merge, normalize
from side_ray.similarity import similarity_of
from side_ray.similarity.base import Similarity
from side_ray.sources.select import SPLITS, Split
from side_ray.statistics.bands import bands_of
from side_ray.statistics.changes import LOSSES, missed_losses, remedy
from side_ray.statistics.evidence.strata import learn, merge_small
from side_ray.statistics.hits import band_hits, count_neighbors, hits_to_columns
from side_ray.storage.sealed import write_table


@dataclass(frozen=True)
class ScoringJob(ShardJob):
    """Scores of the samples `samples` (after a change, if one is named) against the images of `splits`; their hits at `levels`
    are written to `hits`.

    The job whose scores set the cuts has neither `levels` nor `hits`.
    """

    samples: ShardSet
    splits: tuple[Split, ...]
    features: ShardSet | None = None
    """The features of the samples, of which each shard is stored when it is first computed; None = they are not stored."""
    levels: Levels | None = None
    hits: ShardSet | None = None
    strata: Artifact | None = None
    """The strata that the samples are assigned to; None without unseen images."""
    change: str | None = None
    neighborhood: bool = False
    """Whether the samples are the images of a split, of which the surroundings are wanted."""
    seed: int | None = None
    """What members are drawn by that are compared with themselves after each of `images.LOSSES`, in place of samples."""

    def rows(self, indices: Sequence[int] | range) -> int:
        """As of any job, of samples only."""
        return super().rows(indices) if self.seed is None else 0


@dataclass(frozen=True)
class ScorerSpec(Carrier):
    """Everything that a scorer needs, by path. `search`: handles of remote `SearchPart`s; empty = hold all features.
    `distinct`: images of each split, with those that count as one counted once. `flips`: compare both orientations."""

    prepared: Artifact
    jobs: list[ScoringJob]
    score: ScoreSection
    sizes: dict[Split, int]
    distinct: dict[Split, int]
    flips: bool
    search: list[Any]
    threads: int
    again: dict[Split, ShardSet]
    """Reconstructions of the images, that samples are compared with too; empty for models of pixels."""
    stored: StoredFeatures | None
    """The features of the images and of their reconstructions, if they are stored."""


class Scorer(ShardActor):
    """Scores whole shards of samples and writes their scores and hits."""

    stage = "score"
    phases = ("read", "search", "write")

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return uses_gpu(config)

    def __init__(self, spec: ScorerSpec) -> None:
        self.spec = spec
        self.similarity = similarity_of(spec.score)
        self.part: SearchPart | None = None

    def load(self) -> None:
        spec = self.spec
        if not spec.search:
            compared = {split for job in spec.jobs for split in job.splits}
            sizes = {split: size for split, size in spec.sizes.items() if split in compared}
            self.part = SearchPart(spec.prepared, spec.score, sizes, 0, 1, spec.threads, spec.again, spec.stored)
            self.part.load()

    def make(self, task: Task, row: dict[str, Any]) -> None:
        self.ready()
        columns: dict[str, Any]
        job, shard = self.spec.jobs[task.job], task.shard
        if job.seed is not None:
            began = time.perf_counter()
            job.output.write(shard, pa.table(self._ceilings(job.seed)))
            row["seconds_search"] = time.perf_counter() - began
            return
        began, retries = time.perf_counter(), self.spec.prepared.store.retries
        sample_ids, queries = self._queries(job, shard)
        row["seconds_read"] = time.perf_counter() - began

        began = time.perf_counter()
        if job.neighborhood:
            assert isinstance(job.samples, SplitShards)
            own = self._own(job.samples.split)[sample_ids.to_numpy()]
            columns = {"id": sample_ids, **self._neighborhood(job.splits, queries, own)}
            row["seconds_search"] = time.perf_counter() - began
            job.output.write(shard, pa.table(columns))
            row["rows"] = job.output.size(shard)
            return
        nearest, values, counts = self._search(job.splits[0], queries, job.levels)
        columns = {
            "sample_id": sample_ids,
            "best_id": pa.array(nearest.ids[:, 0], pa.int64()),
            "best": pa.array(values[:, 0], pa.float32()),
        }
        if job.levels is not None:
            columns["neighbor_ids"] = _lists(nearest.ids, pa.int64())
            columns["neighbor_values"] = _lists(values, pa.float32())
            columns["distance"] = pa.array(distances(nearest.values[:, 0], self.similarity.metric), pa.float64())
            if len(job.splits) > 1:
                columns |= self._unseen(job.splits[1:], queries, nearest)
            if job.strata is not None:
                columns["stratum"] = pa.array(
                    read_centroids(job.strata).assign(queries[0] if self.spec.flips else queries), pa.int64()
                )
        elif len(job.splits) > 1:
            for split in job.splits[1:]:
                columns[f"{split}_best"] = pa.array(self._search(split, queries, None)[1][:, 0], pa.float32())
        row["seconds_search"] = time.perf_counter() - began

        began = time.perf_counter()
        if job.levels is not None:
            assert counts is not None
            assert job.hits is not None
            hits = hits_to_columns(band_hits(counts, job.levels, sample_ids.to_numpy()))
            write_table(job.hits.store, job.hits.key(shard), pa.table(hits, HITS_SCHEMA))
        # Written last: a shard of scores marks the shard as done, including its hits.
        job.output.write(shard, pa.table(columns))
        row["seconds_write"] = time.perf_counter() - began
        row |= {"retries": self.spec.prepared.store.retries - retries, "rows": job.output.size(shard)}

    def _ceilings(self, seed: int) -> dict[str, Any]:
        """The columns of `Artifacts.ceilings`."""
        spec, similarity, stored = self.spec, self.similarity, self.spec.stored
        ids, images = some_members(spec.prepared, seed)
        groups = read_groups(spec.prepared.store, spec.prepared.key, "member", spec.sizes["member"])
        own = np.arange(groups.size)
        own[groups.ids] = groups.groups
        found = measure_ceilings(
            similarity,
            images,
            own[ids],
            lambda each: _features(similarity, each, spec.flips),
            lambda far: similarity.embed(images[far]) if stored is None else stored.read("member", ids[far]),
            lambda queries: self._search("member", queries, None)[0],
        )
        return {"id": pa.array(ids, pa.int64()), **{name: pa.array(each, pa.float32()) for name, each in found.items()}}

    def _unseen(self, splits: tuple[Split, ...], queries: np.ndarray, members: Neighbors) -> dict[str, Any]:
        """The columns on unseen images: the nearest of each split in its own unit, those of all splits in the members' unit."""
        found = {split: self._search(split, queries, None) for split in splits}
        columns: dict[str, Any] = {}
        for split, (each, own, _) in found.items():
            columns[f"{split}_best"] = pa.array(own[:, 0], pa.float32())
            columns[f"{split}_best_id"] = pa.array(each.ids[:, 0], pa.int64())
        nearest = self._merged({split: each for split, (each, *_) in found.items()})
        unit = self.similarity.denominator(members)
        values = self.similarity.values(nearest) if unit is None else normalize(nearest.values, unit[:, None])
        columns["unseen_neighbor_ids"] = _lists(nearest.ids, pa.int64())
        columns["unseen_neighbor_values"] = _lists(values, pa.float32())
        return columns

    def _merged(self, found: dict[Split, Neighbors]) -> Neighbors:
        """The nearest images of several splits, numbered through."""
        starts = np.cumsum([0, *(self.spec.sizes[split] for split in found)])
        moved = [Neighbors(each.ids + start, each.values) for each, start in zip(found.values(), starts, strict=False)]
        return merge(moved, self.spec.score.neighbors, self.similarity.metric)

    def _own(self, split: Split) -> np.ndarray:
        """int64 [n], the number in the pool of the group of every image of a split."""
        before = SPLITS[: SPLITS.index(split)]
        start, size = sum(self.spec.sizes[each] for each in before), self.spec.sizes[split]
        found = read_groups(self.spec.prepared.store, self.spec.prepared.key, split, size)
        own = np.arange(size)
        own[found.ids] = found.groups
        return start + own

    def _neighborhood(self, splits: tuple[Split, ...], queries: np.ndarray, own: np.ndarray) -> dict[str, Any]:
        """The columns of `Artifacts.neighborhood`: what an exact copy of each image would be told, and `typical`, what it would
        be told if the image itself were not there."""
        found = {split: self._search(split, queries, None)[0] for split in splits}
        nearest = self._merged(found)
        # The image itself is nearest to its copy, but for duplicates of another split, which are as near.
        away = np.argsort(nearest.ids == own[:, None], axis=1, kind="stable")[:, :-1]
        others = Neighbors(np.take_along_axis(nearest.ids, away, 1), np.take_along_axis(nearest.values, away, 1))
        typical = self.similarity.values(others)[:, 0]
        unseen = self._merged({split: each for split, each in found.items() if split != "member"})
        unit = self.similarity.denominator(nearest)
        first = Neighbors(unseen.ids[:, :1], unseen.values[:, :1])
        value = self.similarity.values(first) if unit is None else normalize(first.values, unit[:, None])
        around = distances(nearest.values, self.similarity.metric)
        member, near = self._others(found["member"], own)
        return {
            "typical": pa.array(typical, pa.float32()),
            "distance": pa.array(around.mean(axis=1), pa.float64()),
            "nearest_unseen": pa.array(value[:, 0], pa.float32()),
            "nearest_unseen_id": pa.array(unseen.ids[:, 0], pa.int64()),
            "member_id": pa.array(member, pa.int64()),
            "member_distance": pa.array(near[:, 0], pa.float64()),
            "member_second": pa.array(near[:, 1], pa.float64()),
        }

    def _others(self, members: Neighbors, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N], the member nearest to each image that is not the image itself, and float64 [N, 2], the distances to that
        and to the next one; infinite where there is none."""
        every = np.where(members.ids == own[:, None], np.inf, distances(members.values, self.similarity.metric))
        order = np.argsort(every, axis=1, kind="stable")
        near = np.pad(np.take_along_axis(every, order, 1), ((0, 0), (0, 1)), constant_values=np.inf)[:, :2]
        return np.take_along_axis(members.ids, order, 1)[:, 0], near

    def _queries(self, job: ScoringJob, shard: int) -> tuple[pa.ChunkedArray, np.ndarray]:
        """The ids of a shard's samples, and their features float32 [N, d], or [2, N, d] of both orientations."""
        if job.neighborhood and self.spec.stored is not None and not self.spec.flips:
            assert isinstance(job.samples, SplitShards)
            rows, size = job.samples.rows, self.spec.sizes[job.samples.split]
            ids = np.arange(shard * rows, min((shard + 1) * rows, size))
            return pa.chunked_array([ids]), self.spec.stored.read(job.samples.split, ids)
        return _embedded(self.similarity, job.samples, job.features, shard, self.spec.flips, job.change)

    def _search(
        self, split: Split, queries: np.ndarray, levels: Levels | None
    ) -> tuple[Neighbors, np.ndarray, Counts | None]:
        """Nearest images in the whole split, their values float32 [Q, k], and the counts at `levels` (None without levels)."""
        similarity, size = self.similarity, self.spec.distinct[split]
        one_pass = levels if similarity.metric == "ip" else None
        answers = self._ask("search", split, queries, self.spec.score.neighbors, one_pass)
        nearest = merge([neighbors for neighbors, _ in answers], self.spec.score.neighbors, similarity.metric)
        values = similarity.values(nearest)
        if levels is None:
            return nearest, values, None
        if one_pass is not None:
            return nearest, values, Counts.merge([counts for _, counts in answers])
        limit = similarity.complete_below(nearest, size)
        if limit is not None and not levels.reaches_beyond(limit):
            return nearest, values, count_neighbors(nearest, values, levels)
        counts = self._ask("count", split, queries, levels, similarity.denominator(nearest))
        return nearest, values, Counts.merge(counts)

    def _ask(self, method: str, split: Split, queries: np.ndarray, *arguments: Any) -> list[Any]:
        return ask(self.part, self.spec.search, method, split, queries, *arguments)


def _embedded(
    similarity: Similarity,
    samples: ShardSet,
    stored: ShardSet | None,
    shard: int,
    flips: bool,
    change: str | None = None,
) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The ids of a shard's samples and their features, [N, d] or, with `flips`, [2, N, d]; stored if `stored` does not hold them
    yet."""
    if stored is not None:
        with suppress(Damaged):  # also where it is not there
            table = stored.read(shard)
            return table.column("sample_id"), decode_features(table)
    table = samples.read(shard, ["sample_id", "image"])
    sample_ids, images = table.column("sample_id"), decode_column(table.column("image"))
    images = images if change is None else np.ascontiguousarray(CHANGES[change](images))
    features = _features(similarity, images, flips)
    if stored is not None:
        stored.write(shard, pa.table({"sample_id": sample_ids, **feature_columns(features)}))
    return sample_ids, features


def _features(similarity: Similarity, images: np.ndarray, flips: bool) -> np.ndarray:
    """Of N images [N, H, W, C], [N, d] or, with `flips`, [2, N, d]."""
    features = similarity.embed(images)
    return np.stack([features, similarity.embed(CHANGES["mirrored"](images))]) if flips else features


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    rows, columns = values.shape
    offsets = np.arange(0, rows * columns + 1, columns, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel(), kind))


def score(audit: Audit) -> None:
    """Score the synthetic set against `calibration`, then every condition against the members and `holdout`; by the similarities
    of `score.also` first.

    Raises:
        Damaged: some samples or images cannot be read and have to be made again.
        RunError: some shards could not be scored. The message names them; all others are written.
    """
    for name, other in audit.artifacts.others.items():
        audit.reporter.say(f"score: by {name}")
        score(audit.of(other))
    artifacts, many = audit.artifacts, conditions(audit.config)
    reconstruct(audit)
    with SearchActors(artifacts) as search:
        _score_synthetic(audit, search)
        ceilings = artifacts.ceilings
        own = ScoringJob(ceilings, 1, ceilings, ("member",), seed=audit.config.run.seed)
        run_scoring(audit, [*_jobs(artifacts), own], search, "score")
        if artifacts.reconstructions and not audit.has(artifacts.ceiling):
            cluster, gpus = audit.config.cluster, audit.config.cluster.gpus if uses_gpu(audit.config) else 0
            handles, cpus = search.handles, cluster.actor_cpus
            given = artifacts, handles, search.stored
            run_remotely(write_ceiling, *given, title="ceiling", cpus=cpus, gpus=gpus, retries=3)
    measure_frechet(audit)
    if audit.config.unknown_training and similarity_of(audit.config.score).pixel_distances:
        audit.reporter.say(
            "score: copies that are shifted, rotated or cropped are not seen; if the model was trained with such augmentations, "
            "use score.similarity=sscd (docs/limits.md)"
        )
    for change, probe in read_probes(artifacts).items():
        if probe.many:
            audit.reporter.warn(
                f"{probe.missed:,} of {probe.samples:,} samples match a training image only when they are {change}, and are not "
                f"counted: {remedy(change)}"
            )
    _warn_of_losses(audit)
    audit.run.point_latest(
        scores={each.name: artifacts.scores(each).directory for each in many},
        hits={each.name: artifacts.hits(each).directory for each in many},
        descriptors=stored_descriptors(artifacts),
        ceilings={name: each.ceilings.directory for name, each in artifacts.every.items()},
    )


def _warn_of_losses(audit: Audit) -> None:
    """Say which small losses of detail hide copies; the report tells the others too."""
    artifacts = audit.artifacts
    found = ceilings_metrics(artifacts)
    for name, share in missed_losses(found).items():
        if name in ("jpeg_75", "half_size"):
            audit.reporter.warn(
                f"{similarity_of(audit.config.score).display_name} hides copies: of {found['n']:,} training images that are "
                f"{LOSSES[name]}, {share:.1%} still match themselves, so finding no copy does not say that there is none"
            )


def _jobs(artifacts: Artifacts) -> list[ScoringJob]:
    """The jobs that score the samples of all conditions, and the changed ones of the first. Needs the cut."""
    levels, many = levels_of(artifacts), conditions(artifacts.config)
    jobs = [
        scoring_job(artifacts, artifacts.samples(each), artifacts.scores(each), artifacts.hits(each), levels)
        for each in many
    ]
    samples = artifacts.samples(many[0])
    for change in artifacts.probes:
        output = artifacts.changed(many[0], change)
        jobs.append(ScoringJob(output, artifacts.probe_shards, samples, ("member",), change=change))
    return jobs


@contextmanager
def scored_beside(audit: Audit, sampling_gpus: float) -> Iterator[None]:
    """Score each shard of samples once it is written while the block runs, where `cluster.overlap` and the cluster allow it.

    What needs no samples is made first: the cut, the strata and the features of the images. What the block leaves over, and
    what failed, is left to `score`.

    Args:
        sampling_gpus: GPUs that each sampling actor reserves.

    Raises:
        Damaged: some images cannot be read and have to be made again.
    """
    cluster, artifacts = audit.config.cluster, audit.artifacts
    if cluster.overlap is False or (cluster.overlap == "auto" and not cluster.ray_address):
        yield
        return
    ensure_ray(cluster)
    with SearchActors(artifacts) as search:
        why = ""
        if cluster.gpus and uses_gpu(audit.config):
            why = "scoring reserves GPUs"
        elif search.parts > 1:
            why = "the training features are split over actors"
        elif not _room(cluster, sampling_gpus):
            why = "the sampling actors may take every CPU"
        if why:
            if cluster.overlap is True:
                audit.reporter.warn(f"cluster.overlap: samples are scored after sampling, because {why}")
            yield
            return
        # Told of bars out of the order of the stages, the forecast would take sampling for done.
        forecast, audit.reporter.forecast = audit.reporter.forecast, None
        try:
            reconstruct(audit)
            _score_synthetic(audit, search)
            jobs = _jobs(artifacts)
            embed(audit, jobs)
        except RunError as error:  # sampling needs none of it; the step score raises it again
            why = str(error)
        finally:
            audit.reporter.forecast = forecast
        if why:
            audit.reporter.warn(f"samples are scored after sampling, because scoring could not be prepared: {why}")
            yield
            return
        spec, sources = scorer_spec(artifacts, jobs, search), [job.samples for job in jobs]
        pool = FedPool(Scorer, spec, jobs, sources, lambda: _room(cluster, sampling_gpus), cluster.actor_cpus)
        audit.reporter.say("extract: finished samples are scored beside sampling, on CPUs that it leaves free")
        with pool.running():
            yield
    if pool.trouble:
        audit.reporter.warn(f"some samples were not scored beside sampling ({pool.trouble}); the step score does it")


def _room(cluster: ClusterSection, sampling_gpus: float) -> int:
    """How many scorers may run beside sampling now."""
    return min(cluster.actors[1], spare_actors(cluster, sampling_gpus, alive_nodes()))


def score_synthetic(audit: Audit) -> None:
    """Score only the synthetic set, which sets the cut, and the images of the audit. Raises what `score` does."""
    reconstruct(audit)
    with SearchActors(audit.artifacts) as search:
        _score_synthetic(audit, search)


def _score_synthetic(audit: Audit, search: SearchActors) -> None:
    artifacts = audit.artifacts
    if artifacts.cut_shards:
        features = artifacts.sample_features(artifacts.synthetic)
        job = ScoringJob(artifacts.cut, artifacts.cut_shards, artifacts.synthetic, ("calibration", "holdout"), features)
        jobs = [job, *(_neighborhood_job(artifacts, split) for split in SPLITS)]
        embed(audit, jobs)
        learn_strata(audit)
        run_scoring(audit, jobs, search, "score: synthetic")


def learn_strata(audit: Audit) -> None:
    """Learn the strata on the synthetic set and assign every image of the audit, in a worker. Does nothing if they exist.

    Raises:
        Damaged: a shard of the synthetic set cannot be read.
        RunError: the worker died, or raised another exception.
    """
    artifacts, config = audit.artifacts, audit.config
    if not audit.has(artifacts.strata):
        ensure_ray(config.cluster)
        gpus = config.cluster.gpus if uses_gpu(config) else 0
        run_remotely(_write_strata, artifacts, title="strata", cpus=config.cluster.actor_cpus, gpus=gpus, retries=3)
    audit.run.point_latest(strata=artifacts.strata.key)


def _write_strata(artifacts: Artifacts) -> None:
    similarity, target, sizes = similarity_of(artifacts.config.score), artifacts.strata, artifacts.sizes
    samples, flips = artifacts.synthetic, artifacts.config.compares_flips
    features = artifacts.sample_features(samples)
    many = [_embedded(similarity, samples, features, each, flips)[1] for each in range(artifacts.strata_shards)]
    strata = learn(np.concatenate([each[0] if flips else each for each in many]), sum(sizes.values()))
    splits, ids, found = [], [], []
    stored = artifacts.features
    # Files at the ends of a piece of stored features are read twice; without a plan of the files, all are.
    step = PIECE if stored is None else 64 * PIECE
    for split in SPLITS:
        for start in range(0, sizes[split], step):
            stop = min(start + step, sizes[split])
            if stored is None:
                images = read_split(target.store, artifacts.prepare.key, split, start, stop).images
                piece = similarity.embed(images)
            else:
                piece = stored.read(split, np.arange(start, stop))
            found.append(strata.assign(piece))
            ids.append(np.arange(start, stop))
            splits += [split] * (stop - start)
    assigned = np.concatenate(found)
    merged = merge_small(strata, assigned)
    columns = {"stratum": merged.stratum, "centroid": _lists(merged.centroids, pa.float32())}
    target.write_table(CENTROIDS, pa.table(columns))
    rows = {"split": splits, "id": np.concatenate(ids), "stratum": merged.stratum[assigned]}
    target.write_table(STRATA, pa.table(rows))
    target.finish(strata=int(merged.stratum.max()) + 1)


def run_scoring(audit: Audit, jobs: list[ScoringJob], search: SearchActors, title: str) -> None:
    """Make the missing scores of all jobs. Raises what `run_shards` does."""
    embed(audit, jobs)
    run_shards(audit, Scorer, jobs, lambda: scorer_spec(audit.artifacts, jobs, search), title)


def levels_of(artifacts: Artifacts) -> Levels:
    """The levels at which hits are counted: the bounds of the bands and the calibrated cut."""
    cut = find_cut(artifacts)
    return bands_of(artifacts.config).levels(cut.value if cut else None)


def _neighborhood_job(artifacts: Artifacts, split: Split) -> ScoringJob:
    """The job that looks at the surroundings of every image of a split."""
    output, prepared = artifacts.neighborhood(split), artifacts.prepare
    images = SplitShards(prepared.store, prepared.key, prepared.fingerprint, output.rows, split=split)
    return ScoringJob(output, shards_of(artifacts.sizes[split], output.rows), images, SPLITS, neighborhood=True)


def scoring_job(
    artifacts: Artifacts, samples: ShardSet, scores: ShardSet, hits: ShardSet, levels: Levels
) -> ScoringJob:
    """The job that scores N_G samples against the members and, if there are any, the holdout images."""
    unseen = [split for split in SPLITS[1:] if artifacts.sizes[split]]
    strata = artifacts.strata if artifacts.cut_shards else None
    splits, features = ("member", *unseen), artifacts.sample_features(samples)
    return ScoringJob(scores, artifacts.sample_shards, samples, splits, features, levels, hits, strata)


def scorer_spec(artifacts: Artifacts, jobs: list[ScoringJob], search: SearchActors) -> ScorerSpec:
    """What a scorer needs for these jobs."""
    config = artifacts.config
    sizes, distinct = artifacts.sizes, artifacts.distinct
    return ScorerSpec(
        artifacts.prepare,
        jobs,
        config.score,
        sizes,
        distinct,
        config.compares_flips,
        search.handles,
        config.cluster.actor_cpus,
        artifacts.reconstructions,
        search.stored,
    )
