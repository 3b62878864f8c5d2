"""Step: the descriptors of every image of the audit, each computed once, and shared by audits of the same images."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from side_ray.config import Config, ScoreSection
from side_ray.errors import Damaged
from side_ray.execution.audit import Audit
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, pending, run_shards
from side_ray.images import decode_column
from side_ray.registry import Carrier
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import feature_columns, part_keys
from side_ray.runs.plan import conditions
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.similarity import SIMILARITIES, similarity_of
from side_ray.storage.sealed import read_table

PIECE = 256
"""Number of images embedded at a time."""


@dataclass(frozen=True)
class EmbedJob(ShardJob):
    """The features of prepared images, or of the reconstructions `images`. What `shared` holds is not computed again."""

    images: ShardSet | None
    shared: ShardSet | None


@dataclass(frozen=True)
class EmbedSpec(Carrier):
    """What a worker needs, by path."""

    prepared: Artifact
    jobs: list[EmbedJob]
    score: ScoreSection
    threads: int


class Embedder(ShardActor):
    """Embeds the images of one file, and writes their features."""

    stage = "embed"
    phases = ("read", "compute", "write")

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return SIMILARITIES[config.score.similarity].uses_gpu

    def __init__(self, spec: EmbedSpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self._lock = threading.Lock()

    def load(self) -> None:
        self.keys = part_keys(self.spec.prepared)
        self.similarity = similarity_of(self.spec.score)

    def make(self, task: Task, row: dict[str, Any]) -> None:
        job, shard = self.spec.jobs[task.job], task.shard
        table: pa.Table | None = None
        if job.shared is not None:
            with suppress(Damaged):  # also where it is not there
                table = job.shared.read(shard)
        if table is None:
            table = self._embedded(job, shard, row)
            if job.shared is not None:
                job.shared.write(shard, table)
        began = time.perf_counter()
        job.output.write(shard, table)
        row |= {"seconds_write": time.perf_counter() - began, "rows": table.num_rows}

    def _embedded(self, job: EmbedJob, shard: int, row: dict[str, Any]) -> pa.Table:
        self.ready()
        began = time.perf_counter()
        table = self._images(job, shard)
        images = decode_column(table.column("image"))
        row["seconds_read"] = time.perf_counter() - began
        with self._lock:
            began = time.perf_counter()
            pieces = [self.similarity.embed(images[at : at + PIECE]) for at in range(0, len(images), PIECE)]
            row["seconds_compute"] = time.perf_counter() - began
        return pa.table({**table.drop(["image"]).to_pydict(), **feature_columns(np.concatenate(pieces))})

    def _images(self, job: EmbedJob, shard: int) -> pa.Table:
        if job.images is not None:
            return job.images.read(shard, ["id", "image"])
        prepared = self.spec.prepared
        try:
            return read_table(prepared.store, self.keys[shard], ["split", "id", "image"])
        except Damaged as damage:
            raise Damaged(damage.keys, damage.reason, prepared.marks) from None


def embed(audit: Audit, needed_by: Sequence[ShardJob]) -> None:
    """`embed_images`, if any of these jobs is to be done yet. Samples' features are stored when they are scored."""
    if pending(needed_by):
        embed_images(audit)


def embed_images(audit: Audit) -> None:
    """Store the missing features of the audit's images. Does nothing for similarities that store none.

    Raises:
        Damaged: images cannot be read.
        RunError: some shards failed. All others are kept.
    """
    artifacts = audit.artifacts
    features, shared = artifacts.features, artifacts.shared_features
    if features is None:
        return
    jobs = [EmbedJob(features.images, features.parts, None, None if shared is None else shared.images)]
    for split, images in artifacts.reconstructions.items():
        count = shards_of(artifacts.sizes[split], images.rows)
        own = None if shared is None else shared.again[split]
        jobs.append(EmbedJob(features.again[split], count, images, own))

    def spec() -> EmbedSpec:
        return EmbedSpec(artifacts.prepare, jobs, audit.config.score, audit.config.cluster.actor_cpus)

    run_shards(audit, Embedder, jobs, spec, "embed", "images")
    audit.run.point_latest(features=features.images.directory)


def stored_descriptors(artifacts: Artifacts) -> dict[str, dict[str, Any]]:
    """For `latest.json`: by similarity, where the descriptors of images and samples are, and the strata that are made of them."""
    many = {each.name: artifacts.samples(each) for each in conditions(artifacts.config)}
    described: dict[str, dict[str, Any]] = {}
    for name, each in artifacts.every.items():
        if each.features is not None:
            found = {condition: each.sample_features(samples) for condition, samples in many.items()}
            described[name] = {"images": each.features.images.directory}
            described[name]["samples"] = {key: made.directory for key, made in found.items() if made is not None}
            described[name] |= {"strata": each.strata.key} if each.cut_shards else {}
    return described
