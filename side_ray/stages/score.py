"""Scores every sample against the members and the held-out images, exactly, and sets the calibrated cut.

The training features are one index in every scorer where they are small, or split over search actors: each query batch goes
to all of them, and their results merge exactly.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.config import Config, ScoreSection
from side_ray.execution.progress import Reporter
from side_ray.execution.search_actors import SearchPart, start_servers, stop_servers
from side_ray.execution.session import ensure_ray
from side_ray.execution.shard_pool import Outcome, ShardActor, Task, report_failures, run_tasks
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import to_parquet
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Artifact
from side_ray.runs.scores import Split, find_cut, hits_key, sizes_of
from side_ray.runs.shards import DamagedShard, ShardSet
from side_ray.search import Counts, Levels, Neighbors, merge
from side_ray.similarity.registry import similarity_of
from side_ray.statistics.bands import bands_of
from side_ray.statistics.hits import band_hits, count_neighbors, hits_to_columns


@dataclass(frozen=True)
class Group:
    """Shards to score, where their scores go, and what they are compared with. `levels` is None for the cut's own scores."""

    samples: ShardSet
    scores: ShardSet
    splits: tuple[Split, ...]
    levels: Levels | None


@dataclass(frozen=True)
class ScorerSpec:
    """Everything that a scorer needs, by path. `servers` are handles of remote `SearchPart`s; empty = hold all features."""

    prepared: Artifact
    groups: list[Group]
    score: ScoreSection
    sizes: dict[Split, int]
    servers: list[Any]
    threads: int


class Scorer(ShardActor):
    """Scores whole shards of samples and writes the scores."""

    stage = "score"
    phases = ("read", "search", "write")

    def __init__(self, spec: ScorerSpec) -> None:
        self.spec = spec
        self.similarity = similarity_of(spec.score)
        local = not spec.servers
        self.part = SearchPart(spec.prepared, spec.score, spec.sizes, 0, 1, spec.threads) if local else None

    def make(self, task: Task, row: dict[str, Any]) -> None:
        group, shard = self.spec.groups[task.group], task.shard
        began, retries = time.perf_counter(), self.spec.prepared.store.retries
        table = group.samples.read(shard, ["sample_id", "image"])
        sample_ids = table.column("sample_id")
        queries = self.similarity.embed(decode_column(table.column("image")))
        row["seconds_read"] = time.perf_counter() - began

        began = time.perf_counter()
        nearest, values, counts = self._search(group.splits[0], queries, group.levels)
        columns: dict[str, Any] = {
            "sample_id": sample_ids,
            "best_id": pa.array(nearest.ids[:, 0], pa.int64()),
            "best": pa.array(values[:, 0], pa.float32()),
        }
        if group.levels is not None:
            columns["neighbor_ids"] = _lists(nearest.ids, pa.int64())
            columns["neighbor_values"] = _lists(values, pa.float32())
            for split in group.splits[1:]:
                columns[f"{split}_best"] = pa.array(self._search(split, queries, None)[1][:, 0], pa.float32())
        row["seconds_search"] = time.perf_counter() - began

        began = time.perf_counter()
        if group.levels is not None:
            assert counts is not None
            hits = hits_to_columns(band_hits(counts, group.levels, sample_ids.to_numpy()))
            self.spec.prepared.store.write(hits_key(group.scores, shard), to_parquet(pa.table(hits, HITS_SCHEMA)))
        # Last, since its presence says that the shard is scored.
        group.scores.write(shard, pa.table(columns))
        row["seconds_write"] = time.perf_counter() - began
        row |= {"retries": self.spec.prepared.store.retries - retries, "rows": group.scores.size(shard)}

    def _search(
        self, split: Split, queries: np.ndarray, levels: Levels | None
    ) -> tuple[Neighbors, np.ndarray, Counts | None]:
        """Nearest images over the whole split, their values float32 [Q, k], and the counts at `levels`."""
        similarity, size = self.similarity, self.spec.sizes[split]
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
        counts = self._ask("count", split, queries, levels, similarity.unit(nearest))
        return nearest, values, Counts.merge(counts)

    def _ask(self, method: str, split: Split, queries: np.ndarray, *arguments: Any) -> list[Any]:
        """The answers of every part that holds some of the split."""
        if self.part is not None:
            answers = [getattr(self.part, method)(split, queries, *arguments)]
        else:
            import ray

            shared = ray.put(queries)
            answers = ray.get(
                [getattr(server, method).remote(split, shared, *arguments) for server in self.spec.servers]
            )
        return [answer for answer in answers if answer is not None]


HITS_SCHEMA = pa.schema(
    [("band", pa.string()), ("train_id", pa.int64()), ("count", pa.int64()), ("sample_id", pa.int64())]
)


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    rows, columns = values.shape
    offsets = np.arange(0, rows * columns + 1, columns, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel(), kind))


def score(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Score the synthetic set against `calibration`, then every condition against the members and `holdout`.

    Raises:
        DamagedShard: some samples' files were no shards of this plan; they are deleted, to be sampled again.
        RunError: some shards could not be scored; the others are written, and the message names those.
    """
    _score(config, artifacts, reporter, conditions(config))


def score_synthetic(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Score the synthetic set alone, which sets the cut; raises what `score` does."""
    _score(config, artifacts, reporter, [])


def _score(config: Config, artifacts: Artifacts, reporter: Reporter, wanted: list[Condition]) -> None:
    sizes = sizes_of(artifacts)
    synthetic = Group(artifacts.synthetic, artifacts.cut, ("calibration",), None)
    many = [(each, artifacts.samples(each), artifacts.scores(each)) for each in wanted]
    to_cut = artifacts.cut.missing(artifacts.cut_shards)
    to_score = [scores.missing(artifacts.sample_shards) for _, _, scores in many]
    total = config.extract.samples * len(many) + (config.surrogate.synthetic if artifacts.cut_shards else 0)
    if not to_cut and not any(to_score):
        reporter.say(f"score: {total:,} samples are scored")
    else:
        left = sum(artifacts.cut.size(shard) for shard in to_cut)
        left += sum(scores.size(i) for (_, _, scores), missing in zip(many, to_score, strict=True) for i in missing)
        ensure_ray(config.cluster)
        servers = start_servers(config, artifacts, sizes)
        with reporter.bar("score", total, "samples", done=total - left) as bar:
            spec = ScorerSpec(artifacts.prepare, [synthetic], config.score, sizes, servers, config.cluster.actor_cpus)
            tasks = [Task(0, shard) for shard in to_cut]
            _require_all(spec, run_tasks(Scorer, spec, tasks, config.cluster, bar))
            cut = find_cut(config, artifacts)
            levels = bands_of(config).levels(cut.value if cut else None)
            splits: tuple[Split, ...] = ("member", "holdout") if sizes["holdout"] else ("member",)
            groups = [Group(samples, scores, splits, levels) for _, samples, scores in many]
            spec = ScorerSpec(artifacts.prepare, groups, config.score, sizes, servers, config.cluster.actor_cpus)
            tasks = [Task(g, shard) for g, missing in enumerate(to_score) for shard in missing]
            _require_all(spec, run_tasks(Scorer, spec, tasks, config.cluster, bar))
        stop_servers(servers)
    if many:
        artifacts.run.point_latest(scores={each.name: scores.directory for each, _, scores in many})


def score_groups(config: Config, artifacts: Artifacts, groups: list[Group], title: str, reporter: Reporter) -> None:
    """Score the missing shards of N_G samples of each group.

    Raises:
        DamagedShard, RunError: as for `score`.
    """
    sizes: dict[Split, int] = {split: artifacts.prepare.info()[split] for split in ("member", "holdout")}
    size, count = config.extract.shard_size, artifacts.sample_shards
    tasks = [Task(g, shard) for g, group in enumerate(groups) for shard in group.scores.missing(count)]
    total = config.extract.samples * len(groups)
    if not tasks:
        reporter.say(f"{title}: {total:,} samples are scored")
        return
    ensure_ray(config.cluster)
    servers = start_servers(config, artifacts, sizes)
    with reporter.bar(title, total, "samples", done=total - size * len(tasks)) as bar:
        spec = ScorerSpec(artifacts.prepare, groups, config.score, sizes, servers, config.cluster.actor_cpus)
        _require_all(spec, run_tasks(Scorer, spec, tasks, config.cluster, bar))
    stop_servers(servers)


def _require_all(spec: ScorerSpec, outcome: Outcome) -> None:
    damaged = [task for task, reason in outcome.failures.items() if reason.startswith(DamagedShard.__name__)]
    for task in damaged:
        samples = spec.groups[task.group].samples
        samples.store.delete(samples.key(task.shard))
    if damaged:
        first = spec.groups[damaged[0].group].samples.key(damaged[0].shard)
        raise DamagedShard(first, f"and {len(damaged) - 1} others are no shards of this plan")
    report_failures("score", [group.scores for group in spec.groups], outcome)
