"""The training features in memory: split over search actors, or complete in every scorer."""

import contextlib
import json
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from side_ray.config import Config, ScoreSection
from side_ray.errors import Damaged, UserError
from side_ray.execution.node.memory import passing, shared_array
from side_ray.execution.session import fitting
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.search import SearchPlan, amount, plan_search
from side_ray.runs.dataset import Groups, StoredFeatures, read_groups, read_split
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet
from side_ray.search import Counts, Index, Levels, Neighbors
from side_ray.similarity import SIMILARITIES, similarity_of
from side_ray.similarity.base import Similarity
from side_ray.sources.select import Split

PIECE = 4096
"""Number of images embedded at a time."""


class SearchPart:
    """One part of the features of one or more splits, loaded by path at the first call: an actor cannot return what its
    constructor raises, and a restarted one loads it again.

    If there is only one part (`parts` = 1), the scorers of a node share it in memory. `again`: reconstructions of the images.
    Each counts as its image. `stored`: the features of all of them, if they are stored.
    """

    def __init__(
        self,
        prepared: Artifact,
        score: ScoreSection,
        sizes: dict[Split, int],
        part: int,
        parts: int,
        threads: int,
        again: Mapping[Split, ShardSet] | None = None,
        stored: StoredFeatures | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.again, self.stored = again or {}, stored
        self.prepared, self.score, self.sizes = prepared, score, sizes
        self.part, self.parts, self.threads = part, parts, threads
        self._indices: dict[Split, Index] | Damaged | None = None

    def load(self) -> dict[Split, Index]:
        """The indices by split, built at the first call.

        Raises:
            Damaged: the images cannot be read.
        """
        if self._indices is None:
            try:
                self._indices = self._built()
            except Damaged as damage:
                self._indices = damage
        if isinstance(self._indices, Damaged):
            raise self._indices
        return self._indices

    def _built(self) -> dict[Split, Index]:
        score, similarity, indices = self.score, similarity_of(self.score), {}
        for split, size in self.sizes.items():
            groups = read_groups(self.prepared.store, self.prepared.key, split, size)
            # Groups are not divided: their images are those of the part that has the first.
            start, stop = size * self.part // self.parts, size * (self.part + 1) // self.parts
            again, shared = self.again.get(split), self.parts == 1
            ids, features = features_of(
                self.prepared, similarity, split, groups, start, stop, again, self.stored, shared=shared
            )
            if len(ids):
                # Reading leaves memory in Arrow's pool.
                pa.default_memory_pool().release_unused()
                with passing(features):
                    indices[split] = Index(features, ids, similarity.metric, engine=score.engine, threads=self.threads)
        return indices

    def search(
        self, split: Split, queries: np.ndarray, k: int, levels: Levels | None
    ) -> tuple[Neighbors, Counts | None] | None:
        """The `k` nearest images of this part and its counts per level; None if the part holds no image of the split."""
        index = self.load().get(split)
        if index is None:
            return None
        with passing(index.part.features):
            return index.search(queries, k, levels)

    def count(self, split: Split, queries: np.ndarray, levels: Levels, unit: np.ndarray | None) -> Counts | None:
        """How often each training image of this part is hit at each level; None if the part holds no image of the split."""
        index = self.load().get(split)
        if index is None:
            return None
        with passing(index.part.features):
            return index.count(queries, levels, unit)


def features_of(
    prepared: Artifact,
    similarity: Similarity,
    split: Split,
    groups: Groups,
    start: int,
    stop: int,
    again: ShardSet | None = None,
    stored: StoredFeatures | None = None,
    *,
    shared: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Groups int64 [n] and features float32 [n, d] of the images of groups `start` … `stop` − 1 of a split, see `Groups.rows`.

    Args:
        again: reconstructions of the split's images; their rows follow those of the images.
        stored: where features are read from; None = they are computed.
        shared: share the features between all processes of the node that request the same ones, if its disk has room.
    """

    rows, ids = groups.rows(start, stop)
    if not len(rows):
        return ids, np.empty((0, 1), np.float32)

    def read(features: np.ndarray) -> None:
        assert stored is not None
        stored.read(split, rows, features[: len(rows)])
        if again is not None:
            features[len(rows) :] = stored.read_again(split, rows)

    def embed(features: np.ndarray) -> None:
        here = rows[rows < stop] - start
        images = read_split(prepared.store, prepared.key, split, start, stop).images
        _embed(images if len(here) == len(images) else images[here], features[: len(here)])
        if len(here) < len(rows):
            beyond = read_split(prepared.store, prepared.key, split, stop, ids=rows[len(here) :].tolist())
            _embed(beyond.images, features[len(here) : len(rows)])
        if again is not None:
            for shard in np.unique(rows // again.rows).tolist():
                own = np.flatnonzero(rows // again.rows == shard)
                images = decode_column(again.read(shard, ["image"]).column("image"))
                _embed(images[rows[own] % again.rows], features[len(rows) + own[0] : len(rows) + own[-1] + 1])

    def _embed(images: np.ndarray, features: np.ndarray) -> None:
        for row in range(0, len(features), PIECE):
            features[row : row + PIECE] = similarity.embed(images[row : row + PIECE])

    fill = embed if stored is None else read
    # Noise tells the dimension as well as an image would, and reading one image means opening every file of the split.
    noise = np.random.default_rng(0).integers(0, 256, (1, *prepared.info()["shape"]), np.uint8)
    shape = len(rows) * (1 if again is None else 2), similarity.embed(noise).shape[1]
    ids = ids if again is None else np.concatenate([ids, ids])
    if shared:
        content = [prepared.store.uri, prepared.key, split, similarity.name, similarity.params()]
        key = json.dumps(content if again is None else [*content, again.fingerprint])
        with contextlib.suppress(OSError):
            return ids, shared_array(key, shape, fill)
    features = np.empty(shape, np.float32)
    fill(features)
    return ids, features


class SearchActors:
    """The training features of an audit: split over actors or, if they are small, loaded by every scorer itself.

    A context manager: the actors start on first use of `handles` and are killed at the end of the block.
    """

    def __init__(self, artifacts: Artifacts, score: ScoreSection | None = None) -> None:
        self.artifacts, self.score = artifacts, score or artifacts.config.score
        self._handles: list[Any] | None = None
        self._stored: StoredFeatures | None = None

    @property
    def stored(self) -> StoredFeatures | None:
        """The stored features, if all are there."""
        if self._stored is None and (found := self.artifacts.features) is not None and found.complete:
            self._stored = found
        return self._stored

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._handles:
            import ray

            for handle in self._handles:
                ray.kill(handle)

    @property
    def handles(self) -> list[Any]:
        """Handles of the remote `SearchPart`s; empty if every scorer holds all features."""
        if self._handles is None:
            self._handles = self._start()
        return self._handles

    @property
    def parts(self) -> int:
        """Number of actors that the training features are split over; 1 = every scorer holds all. Raises UserError if a node
        cannot hold a part."""
        return self._plan().parts

    def _plan(self) -> SearchPlan:
        height, width, channels = self.artifacts.prepare.info()["shape"]
        dimension = SIMILARITIES[self.score.similarity].dimension((height, width, channels))
        config = self.artifacts.config.model_copy(update={"score": self.score})
        return plan_search(config, self.artifacts.sizes, dimension, bool(self.artifacts.reconstructions))

    def _start(self) -> list[Any]:
        cluster, prepared, sizes = self.artifacts.config.cluster, self.artifacts.prepare, self.artifacts.sizes
        again, plan = self.artifacts.reconstructions, self._plan()
        if (parts := plan.parts) == 1:
            return []
        import ray

        # The search gets half of the CPUs and the scorers get the other half, so that both can start.
        processors = ray.cluster_resources().get("CPU", 0) or 2 * parts * cluster.actor_cpus
        share = min(cluster.actor_cpus, max(0.01, round(processors / 2 / parts, 2)))
        wanted = float(cluster.gpus) if uses_gpu(self.artifacts.config) else 0.0
        gpus = reserved(wanted, parts, [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]])
        actor = ray.remote(SearchPart).options(
            num_cpus=share, num_gpus=gpus, memory=self._memory(plan), max_restarts=-1, max_task_retries=-1
        )
        arguments = prepared, self.score, sizes
        return [actor.remote(*arguments, part, parts, cluster.actor_cpus, again, self.stored) for part in range(parts)]

    def _memory(self, plan: SearchPlan) -> int | None:
        """Bytes that an actor reserves; None without `cluster.memory_gb`.

        Raises:
            UserError: this machine, on which Ray was started for the audit, cannot hold all actors.
        """
        cluster = self.artifacts.config.cluster
        if cluster.memory_gb is None:
            return None
        import ray

        wanted, there = plan.parts * plan.actor_bytes, ray.cluster_resources().get("memory", 0)
        if cluster.ray_address is None and wanted > there:
            raise UserError(
                f"{plan.parts:,} actors with the training features take {amount(wanted)}, and this machine has {amount(there)}; "
                f"run the audit on a cluster of {plan.nodes(cluster.memory_gb):,} nodes",
                "cluster.memory_gb",
            )
        return plan.actor_bytes


def reserved(gpus: float, parts: int, nodes: list[float]) -> float:
    """GPUs that each of `parts` search actors reserves on nodes with so many GPUs: `gpus`, or 0.

    Search actors live as long as the scoring. If they reserved every GPU, no scorer could ever start, so they reserve none
    unless one more actor of that size fits; they then share the GPU that they see.
    """
    if not gpus:
        return 0.0
    return gpus if sum(fitting(gpus, node) for node in nodes) > parts else 0.0


def uses_gpu(config: Config) -> bool:
    """Whether an actor that holds training features may embed or search on a GPU."""
    # Checks for the code, not for a GPU: this runs in the driver, which may have none while the cluster's nodes do.
    engine = config.score.engine
    return (
        SIMILARITIES[config.score.similarity].uses_gpu
        or (engine != "faiss" and torch.backends.cuda.is_built())
        or (engine != "torch" and _faiss_has_gpu_code())
    )


def _faiss_has_gpu_code() -> bool:
    return find_spec("faiss") is not None and hasattr(import_module("faiss"), "StandardGpuResources")


def ask(
    part: SearchPart | None, handles: list[Any], method: str, split: Split, queries: np.ndarray, *arguments: Any
) -> list[Any]:
    """Call `method` of `SearchPart` on the local part, or on every actor; returns the answers that are not None."""
    if part is not None:
        answers = [getattr(part, method)(split, queries, *arguments)]
    else:
        import ray

        shared = ray.put(queries)
        try:
            answers = ray.get([getattr(handle, method).remote(split, shared, *arguments) for handle in handles])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Damaged):
                raise error.cause from None
            raise
    return [answer for answer in answers if answer is not None]
