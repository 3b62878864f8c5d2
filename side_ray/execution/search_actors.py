"""Actors that hold the training features in parts."""

import contextlib
import json
from typing import Any

import numpy as np
import torch

from side_ray.config import Config, ScoreSection
from side_ray.execution.node_memory import shared_array
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_split
from side_ray.runs.run import Artifact
from side_ray.runs.scores import Split
from side_ray.search import Counts, Index, Levels, Neighbors
from side_ray.similarity.base import Similarity
from side_ray.similarity.registry import similarity_of

# Features of one index; a larger training set is split.
PART_BYTES = 2 * 2**30


# Images whose features are made at a time.
PIECE = 4096


class SearchPart:
    """One part of the features of one or more splits, loaded by path, so that a restarted actor loads them again.

    The part that is all (`parts` 1) is held once by the scorers of a node.
    """

    def __init__(
        self, prepared: Artifact, score: ScoreSection, sizes: dict[Split, int], part: int, parts: int, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        similarity = similarity_of(score)
        self.indices: dict[Split, Index] = {}
        for split, size in sizes.items():
            start, stop = size * part // parts, size * (part + 1) // parts
            if start < stop:
                ids, features = features_of(prepared, similarity, split, start, stop, shared=parts == 1)
                self.indices[split] = Index(features, ids, similarity.metric, engine=score.engine, threads=threads)

    def search(
        self, split: Split, queries: np.ndarray, k: int, levels: Levels | None
    ) -> tuple[Neighbors, Counts | None] | None:
        """Nearest of this part, and its counts per level; None where the part holds nothing of the split."""
        index = self.indices.get(split)
        return index.search(queries, k, levels) if index else None

    def count(self, split: Split, queries: np.ndarray, levels: Levels, unit: np.ndarray | None) -> Counts | None:
        """How often each training image of this part is hit at each level."""
        index = self.indices.get(split)
        return index.count(queries, levels, unit) if index else None


def features_of(
    prepared: Artifact, similarity: Similarity, split: Split, start: int, stop: int, *, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 [n] and features float32 [n, d] of the images `start` … `stop` − 1 of a split.

    Args:
        shared: hold the features once for all processes of the node that ask for the same, where its disk has room.
    """

    def embed(features: np.ndarray) -> None:
        images = read_split(prepared.store, prepared.key, split, start, stop).images
        for row in range(0, len(features), PIECE):
            features[row : row + PIECE] = similarity.embed(images[row : row + PIECE])

    # Noise instead of an image of the split, which would take a look into every file of it.
    noise = np.random.default_rng(0).integers(0, 256, (1, *prepared.info()["shape"]), np.uint8)
    shape = stop - start, similarity.embed(noise).shape[1]
    if shared:
        key = json.dumps([prepared.store.uri, prepared.key, split, similarity.name, similarity.params()])
        with contextlib.suppress(OSError):
            return np.arange(start, stop), shared_array(key, shape, embed)
    features = np.empty(shape, np.float32)
    embed(features)
    return np.arange(start, stop), features


def parts_of(score: ScoreSection, features: int, dimension: int) -> int:
    """Parts to split the training features into; 1 = every scorer holds them all."""
    return score.shards or max(1, -(-features * dimension * 4 // PART_BYTES))


def start_servers(config: Config, artifacts: Artifacts, sizes: dict[Split, int]) -> list[Any]:
    """Actors that hold the training features in parts; none where every scorer holds them all."""
    height, width, channels = artifacts.prepare.info()["shape"]
    dimension = 512 if config.score.similarity == "sscd" else height * width * channels
    parts = min(parts_of(config.score, sizes["member"], dimension), sizes["member"])
    if parts == 1:
        return []
    import ray

    # Half of the processors for the search, half for those who ask: neither may keep the other from starting.
    processors = ray.cluster_resources().get("CPU", 0) or 2 * parts * config.cluster.actor_cpus
    share = min(config.cluster.actor_cpus, max(0.01, round(processors / 2 / parts, 2)))
    actor = ray.remote(SearchPart).options(num_cpus=share, max_restarts=-1, max_task_retries=-1)
    threads = config.cluster.actor_cpus
    return [actor.remote(artifacts.prepare, config.score, sizes, part, parts, threads) for part in range(parts)]


def stop_servers(servers: list[Any]) -> None:
    """End the actors of `start_servers`."""
    if servers:
        import ray

        for server in servers:
            ray.kill(server)
