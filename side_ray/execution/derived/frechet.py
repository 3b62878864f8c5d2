"""Step: the Fréchet distances of stored features between samples, or unseen images, and the members."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.errors import Damaged
from side_ray.execution.audit import Audit
from side_ray.execution.derived.embed import embed_images
from side_ray.execution.session import ensure_ray, run_remotely
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import StoredFeatures, decode_features
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Artifact
from side_ray.statistics.opinions.frechet import Moments, frechet_distance

MOST = 100_000
"""About how many images of a set are read, so that the work does not grow with the set."""


def frechet_artifacts(artifacts: Artifacts) -> list[Artifact]:
    """Those that `measure_frechet` makes."""
    return [artifact for artifact, _ in _wanted(artifacts)]


def _wanted(artifacts: Artifacts) -> list[tuple[Artifact, Condition | None]]:
    """The artifacts of all sets that are compared with the members; None stands for the unseen images."""
    fewest = min(artifacts.config.extract.samples, artifacts.sizes["member"])
    if not artifacts.config.score.item("score.similarity").stores_features or fewest < 2:
        return []
    unseen: list[Condition | None] = [None] if artifacts.cut_shards else []
    return [(artifacts.frechet(each), each) for each in (*conditions(artifacts.config), *unseen)]


def measure_frechet(audit: Audit) -> None:
    """Measure the missing ones in a worker. Does nothing for a similarity that stores no features.

    Raises:
        Damaged: features cannot be read.
        RunError: the worker died, or raised another exception.
    """
    if any(not audit.has(each) for each in frechet_artifacts(audit.artifacts)):
        cluster = audit.config.cluster
        embed_images(audit)
        ensure_ray(cluster)
        run_remotely(write_frechet, audit.artifacts, title="frechet", cpus=cluster.actor_cpus, gpus=0, retries=3)


def write_frechet(artifacts: Artifacts) -> None:
    """Write the missing ones. Raises Damaged."""
    stored = artifacts.features
    assert stored is not None
    members = Moments.of(_images(stored, ("member",)))
    for artifact, condition in _wanted(artifacts):
        if not artifact.done:
            unseen = _images(stored, ("calibration", "holdout"))
            own = Moments.of(unseen if condition is None else _samples(artifacts, condition))
            artifact.finish(distance=frechet_distance(own, members), images=own.n, members=members.n)


def _images(stored: StoredFeatures, splits: tuple[str, ...]) -> Iterator[np.ndarray]:
    """The features of the images of some splits, file by file in a fixed random order, until `MOST` images are read."""
    found = 0
    for part in np.random.default_rng(0).permutation(stored.parts).tolist():
        if found >= MOST:
            return
        table = stored.images.read(part)
        own = table.filter(pc.is_in(table.column("split"), pa.array(splits)))
        if own.num_rows:
            found += own.num_rows
            yield decode_features(own)


def _samples(artifacts: Artifacts, condition: Condition) -> Iterator[np.ndarray]:
    """The features of a condition's first samples, not mirrored. Raises Damaged."""
    features = artifacts.sample_features(artifacts.samples(condition))
    assert features is not None
    for index in range(min(artifacts.sample_shards, -(-MOST // features.rows))):
        try:
            found = decode_features(features.read(index))
        except Damaged as damage:
            # They are stored when the samples are scored, so the scores are made again too.
            raise Damaged(damage.keys, damage.reason, [artifacts.scores(condition).key(index)]) from None
        yield found if found.ndim == 2 else found[0]
