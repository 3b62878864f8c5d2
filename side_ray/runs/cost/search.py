"""The cost of the comparisons: how the training features are divided over search actors, the memory of each, and the time."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.images import decode_png, encode_png
from side_ray.runs.artifacts import Artifacts, image_shape
from side_ray.runs.plan import conditions
from side_ray.search.index import RowIndex
from side_ray.similarity import SIMILARITIES, similarity_of
from side_ray.sources.select import SPLITS, Split

GIB = 2**30
PART_BYTES = 2 * GIB
"""Size limit of the features of one index; larger sets are split over actors."""
COPIED = 2**29
"""Features of an index up to which a search keeps a copy in 8 bits."""
ROW_BYTES = 64
"""Of a training image beside its features: ids, norms and bounds."""
PROCESS_BYTES, THREAD_BYTES = GIB // 2, GIB // 4
"""Of a process without features, and of what a thread compares at a time."""
MOST_PARTS = 10_000
CPU_FLOPS = 1e11
"""Of a search on one CPU without a measurement: those of processors with AVX-512 VNNI lie above, older ones below."""


@dataclass(frozen=True)
class SearchPlan:
    """How the training features are divided: each of `parts` actors holds a part of every split; one part is held by every
    scorer, and mapped by all of a node."""

    rows: Mapping[Split, int]
    """Of features by split: with reconstructions, two for an image."""
    dimension: int
    parts: int
    threads: int
    faiss: bool
    """Whether FAISS searches, which holds a copy of the features."""

    @property
    def feature_bytes(self) -> int:
        """Of all features, float32."""
        return 4 * self.dimension * sum(self.rows.values())

    @property
    def actor_bytes(self) -> int:
        """Memory of an actor at most: features, what a search holds beside them, and the process."""
        return self.part_bytes + self.beside_bytes

    @property
    def part_bytes(self) -> int:
        """Of the features that one actor holds."""
        return sum(4 * self.dimension * rows for rows in self._part_rows())

    @property
    def beside_bytes(self) -> int:
        """What one actor holds beside features."""
        copies = [self._copy(rows) + ROW_BYTES * rows for rows in self._part_rows()]
        return sum(copies) + PROCESS_BYTES + self.threads * THREAD_BYTES

    def per_node(self, memory_gb: float) -> int:
        """Actors that a node of so much memory holds, at least 1."""
        return max(1, int(memory_gb * GIB) // self.actor_bytes)

    def nodes(self, memory_gb: float) -> int:
        """Nodes of so much memory that hold all actors."""
        return -(-self.parts // self.per_node(memory_gb))

    def to_json(self, memory_gb: float | None) -> dict[str, Any]:
        """`rows` by split, `dimension`, `parts`, `feature_bytes` of all, `actor_bytes` of one, and `nodes` (None = unknown)."""
        numbers = {name: getattr(self, name) for name in ("dimension", "parts", "feature_bytes", "actor_bytes")}
        return {"rows": dict(self.rows), **numbers, "nodes": None if memory_gb is None else self.nodes(memory_gb)}

    def _copy(self, rows: int) -> int:
        if self.faiss:
            return 4 * self.dimension * rows
        return self.dimension * rows if self.dimension * rows <= COPIED else 0

    def _part_rows(self) -> list[int]:
        return [-(-rows // self.parts) for rows in self.rows.values()]


def plan_search(config: Config, sizes: Mapping[Split, int], dimension: int, again: bool) -> SearchPlan:
    """The division of the features of splits of `sizes` images, as `score.shards` and `cluster.memory_gb` want it.

    Args:
        again: compared with the images' reconstructions too.

    Raises:
        UserError: a node cannot hold a part.
    """
    score, cluster = config.score, config.cluster
    rows = {split: size * (2 if again else 1) for split, size in sizes.items()}
    least = score.shards or max(1, -(-max(rows.values()) * dimension * 4 // PART_BYTES))

    def divided(parts: int) -> SearchPlan:
        return SearchPlan(rows, dimension, parts, cluster.actor_cpus, score.engine == "faiss")

    most = min(MOST_PARTS, max(1, sizes["member"]))
    found = divided(min(least, most))
    if cluster.memory_gb is None:
        return found
    limit = int(cluster.memory_gb * GIB)
    # A smaller part may be copied where a larger one was not, so the copy is always counted; each split may have a row more.
    each = dimension * (8 if found.faiss else 5) + ROW_BYTES
    room = limit - PROCESS_BYTES - cluster.actor_cpus * THREAD_BYTES - len(rows) * each
    if found.actor_bytes > limit and score.shards is None and room > 0:
        found = divided(min(most, -(-sum(rows.values()) * each // room)))
    if found.actor_bytes > limit:
        remedy = "raise it, or score.shards" if score.shards else "raise it"
        raise UserError(
            f"{cluster.memory_gb:g} GiB cannot hold one of {found.parts:,} parts of the training features, whose actor takes "
            f"{amount(found.actor_bytes)} ({amount(found.part_bytes)} of features and {amount(found.beside_bytes)} beside "
            f"them); {remedy}",
            "cluster.memory_gb",
        )
    return found


def planned_search(artifacts: Artifacts) -> SearchPlan:
    """The division before the images are prepared. Raises UserError, see `plan_search` and `image_shape`."""
    config, (channels, height, width) = artifacts.config, image_shape(artifacts)
    dimension = SIMILARITIES[config.score.similarity].dimension((height, width, channels))
    return plan_search(config, planned_sizes(config), dimension, _again(artifacts))


def planned_sizes(config: Config) -> dict[Split, int]:
    unseen = SPLITS[1:] if config.data.holdout else ()
    return {"member": config.data.members, **dict.fromkeys(unseen, config.data.holdout)}


def _again(artifacts: Artifacts) -> bool:
    return artifacts.config.score.reconstructions is not False and not artifacts.config.given and artifacts.latent


@dataclass(frozen=True)
class Pace:
    """How fast this machine compares, with the CPUs of one actor."""

    image: float
    """Seconds in which an image is read and its features are computed."""
    pair: float
    """Seconds in which a sample is compared with one row of features."""


def compared_pairs(artifacts: Artifacts) -> int:
    """Pairs of a sample, or an image of the audit, and a row of features that an audit compares."""
    config, rows = artifacts.config, planned_search(artifacts).rows
    everything = sum(rows.values())
    pairs = len(conditions(config)) * config.extract.samples * everything
    if config.data.holdout:
        # The synthetic set meets the unseen images, and every image of the audit all others.
        pairs += config.surrogate.synthetic * (everything - rows["member"])
        pairs += sum(planned_sizes(config).values()) * everything
    return pairs * (2 if config.compares_flips else 1)


def search_lines(artifacts: Artifacts, pace: Pace | None = None) -> dict[str, str]:
    """The lines of the plan on the comparisons by each similarity: parts, nodes, memory and hours, with their arithmetic.

    Args:
        pace: by the first similarity; None = it is assumed.
    """
    lines: dict[str, str] = {}
    for name, each in artifacts.every.items():
        # Further similarities compare one after the other, in their own time.
        found = _lines_of(each, pace if each is artifacts else None)
        lines |= found if each is artifacts else {f"{key} ({name})": line for key, line in found.items()}
    return lines


def _lines_of(artifacts: Artifacts, pace: Pace | None) -> dict[str, str]:
    config, found, pairs = artifacts.config, planned_search(artifacts), compared_pairs(artifacts)
    memory, stored = config.cluster.memory_gb, config.score.item("score.similarity").stores_features
    part, beside, actor = (amount(each) for each in (found.part_bytes, found.beside_bytes, found.actor_bytes))
    held = (
        f"{found.parts:,} parts, one actor each" if found.parts > 1 else "one part, which the scorers of a node share"
    )
    lines = {
        "features": f"{sum(found.rows.values()):,} × {found.dimension:,} × 4 B = {amount(found.feature_bytes)} in {held}",
        "memory": f"{part} of features + {beside} beside them = {actor} per actor",
    }
    if found.parts > 1:
        nodes = "cluster.memory_gb, of a node, says how many nodes these are"
        if memory is not None:
            nodes = f"{found.nodes(memory):,} of {memory:g} GiB with {found.per_node(memory):,} actors each"
        lines["nodes"] = f"{found.parts:,} × {actor} = {amount(found.parts * found.actor_bytes)}; {nodes}"
        lines["reading"] = f"each actor reads all {'features' if stored else 'images'} once, and keeps its part"
    if stored:
        images = (len(conditions(config)) * config.extract.samples + config.surrogate.synthetic) + sum(
            found.rows.values()
        )
        hours = (
            "" if pace is None else f": {images * pace.image / 3600:,.2f} hours at {1 / pace.image:,.1f}/s per actor"
        )
        lines["descriptors"] = f"{images:,} images, each once{hours}"
    work = pairs * 2.0 * found.dimension
    rate, source = (found.threads * CPU_FLOPS, "assumed: --probe measures it")
    if pace is not None:
        rate, source = 2.0 * found.dimension / pace.pair, "measured here"
    lines["comparisons"] = (
        f"{pairs:.3g} pairs × 2 × {found.dimension:,} = {work:.3g} FLOP: {work / rate / found.parts / 3600:,.2f} hours on "
        f"{found.parts:,} {'actor' if found.parts == 1 else 'actors'} of {rate / 1e9:,.0f} GFLOP/s ({source})"
    )
    return lines


PROBED = 4096
"""Features that `probe_search` compares with; more take as many times longer."""


def probe_search(artifacts: Artifacts) -> Pace:
    """Measure on this machine how long an actor takes to read, describe and compare."""
    config, (channels, height, width) = artifacts.config, image_shape(artifacts)
    similarity, rng = similarity_of(config.score), np.random.default_rng(0)
    rows, several = min(sum(planned_sizes(config).values()), PROBED), 16 if similarity.stores_features else 256
    noise = rng.integers(
        0, 256, (max(several, 1 if similarity.stores_features else rows), height, width, channels), np.uint8
    )
    few = [encode_png(image) for image in noise[:several]]
    similarity.embed(noise[:1])
    began = time.perf_counter()
    queries = similarity.embed(np.stack([decode_png(each) for each in few]))
    image = (time.perf_counter() - began) / len(few)
    if similarity.stores_features:
        # To search in other vectors takes as long, to describe so many images longer.
        features = rng.standard_normal((rows, queries.shape[1]), np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        queries = np.resize(features, (256, features.shape[1]))
    else:
        features = similarity.embed(noise[:rows])
    index = RowIndex(
        features, np.arange(rows), similarity.metric, engine=config.score.engine, threads=config.cluster.actor_cpus
    )
    index.search(queries, config.score.neighbors)
    began = time.perf_counter()
    index.search(queries, config.score.neighbors)
    return Pace(image, (time.perf_counter() - began) / len(queries) / rows)


def probe_given(artifacts: Artifacts, pace: Pace) -> float:
    """Given samples that an actor reads and compares with all members and unseen images per second."""
    config = artifacts.config
    pool = sum(planned_sizes(config).values())
    # Members and unseen images are read and embedded too, and every one of them once.
    return 1 / (pace.image * (1 + pool / config.extract.samples) + pace.pair * pool)


def amount(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:,.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError
