"""Step: the images of the audit as a latent model's VAE gives them back, which samples are compared with too.

A VAE loses detail: a sample that copies a training image is at best the VAE's reconstruction of it.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from side_ray.config import Config
from side_ray.diffusion.dpm import Dpm, load_dpm
from side_ray.execution.audit import Audit
from side_ray.execution.search_actors import SearchPart, ask
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, run_shards
from side_ray.images import decode_column, image_column, to_float, to_uint8
from side_ray.registry import Carrier
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import StoredFeatures, read_split
from side_ray.runs.run import Artifact
from side_ray.runs.shards import shards_of
from side_ray.search import Neighbors, merge, normalize
from side_ray.similarity import similarity_of
from side_ray.sources.select import SPLITS, Split
from side_ray.statistics.cut import Cut
from side_ray.statistics.scores import reaches
from side_ray.storage.sealed import read_table


@dataclass(frozen=True)
class ReconstructionJob(ShardJob):
    """The reconstructions of one split."""

    split: Split


@dataclass(frozen=True)
class ReconstructionSpec(Carrier):
    """What a worker needs, by path. `code`: whether the model may be code, which the config names."""

    prepared: Artifact
    dpm: Artifact
    jobs: list[ReconstructionJob]
    threads: int
    code: bool


class Reconstructor(ShardActor):
    """Encodes and decodes images, and writes what comes back in shards."""

    stage = "reconstruct"
    phases = ("compute", "write")

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return True

    def __init__(self, spec: ReconstructionSpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dpm: Dpm
        self._lock = threading.Lock()

    def load(self) -> None:
        self.dpm = load_dpm(self.fetched(self.spec.dpm), device=self.device, code=self.spec.code)

    def make(self, task: Task, row: dict[str, Any]) -> None:
        self.ready()
        job = self.spec.jobs[task.job]
        start = task.shard * job.output.rows
        stop, codec = start + job.output.size(task.shard), self.dpm.codec
        assert codec is not None
        images = read_split(self.spec.prepared.store, self.spec.prepared.key, job.split, start, stop).images
        with self._lock:
            began = time.perf_counter()
            again = to_uint8(codec.decode(codec.encode(to_float(images).to(self.device))))
            row["seconds_compute"] = time.perf_counter() - began
        self.check_weights()
        began = time.perf_counter()
        table = pa.table({"id": pa.array(range(start, stop), pa.int64()), "image": image_column(again)})
        job.output.write(task.shard, table)
        row |= {"seconds_write": time.perf_counter() - began, "rows": stop - start}


def reconstruct(audit: Audit) -> None:
    """Make the missing reconstructions; does nothing where samples are not compared with any (`score.reconstructions`).

    Raises:
        RunError: some shards failed. All others are kept.
    """
    artifacts, config = audit.artifacts, audit.config
    outputs = artifacts.reconstructions
    if not outputs:
        return
    sizes = artifacts.sizes
    jobs = [
        ReconstructionJob(outputs[split], shards_of(sizes[split], outputs[split].rows), split)
        for split in SPLITS
        if sizes[split]
    ]

    def spec() -> ReconstructionSpec:
        code = config.dpm.function is not None
        return ReconstructionSpec(artifacts.prepare, artifacts.dpm, jobs, config.cluster.actor_cpus, code)

    run_shards(audit, Reconstructor, jobs, spec, "reconstruct", "images")
    audit.run.point_latest(reconstructions={f"split={job.split}": job.output.directory for job in jobs})


CEILING = "ceiling.parquet"
CEILING_IMAGES = 1000
"""Members, spread over the set, that are compared with their reconstructions."""


def write_ceiling(artifacts: Artifacts, handles: list[Any], stored: StoredFeatures | None = None) -> None:
    """Compare members with their reconstructions, in the unit of samples: what the value of a perfect copy is against the image.

    Args:
        handles, stored: as of `SearchActors`.
    """
    config, target, sizes = artifacts.config, artifacts.ceiling, artifacts.sizes
    score, prepared, shards = config.score, artifacts.prepare, artifacts.reconstructions["member"]
    similarity, threads = similarity_of(score), config.cluster.actor_cpus
    part = None
    if not handles:
        again = artifacts.reconstructions
        part = SearchPart(prepared, score, {"member": sizes["member"]}, 0, 1, threads, again, stored)
    ids = np.unique(np.linspace(0, sizes["member"] - 1, min(sizes["member"], CEILING_IMAGES)).round().astype(np.int64))
    values = []
    for shard in np.unique(ids // shards.rows).tolist():
        own = ids[ids // shards.rows == shard]
        if stored is not None:
            queries, images = stored.read_again("member", own), stored.read("member", own)
        else:
            queries = similarity.embed(decode_column(shards.read(shard, ["image"]).column("image"))[own % shards.rows])
            images = similarity.embed(read_split(prepared.store, prepared.key, "member", ids=own.tolist()).images)
        answers = ask(part, handles, "search", "member", queries, score.neighbors, None)
        nearest = merge([neighbors for neighbors, _ in answers], score.neighbors, similarity.metric)
        pairs = np.stack([queries, images]).astype(np.float64)
        between = np.sqrt(((pairs[0] - pairs[1]) ** 2).sum(1)) if similarity.metric == "l2" else pairs.prod(0).sum(1)
        unit = similarity.denominator(nearest)
        found = Neighbors(own[:, None], between[:, None])
        values.append((similarity.values(found) if unit is None else normalize(between[:, None], unit[:, None]))[:, 0])
    rows = {"id": pa.array(ids, pa.int64()), "value": pa.array(np.concatenate(values), pa.float32())}
    target.write_table(CEILING, pa.table(rows))
    target.finish(images=len(ids))


def ceiling_metrics(artifacts: Artifacts, cut: Cut | None, larger_is_closer: bool) -> dict[str, Any] | None:
    """`reconstructions` of metrics.json; None where samples are not compared with any. Raises Damaged."""
    if not artifacts.reconstructions:
        return None
    target = artifacts.ceiling
    values = read_table(target.store, f"{target.key}/{CEILING}").column("value").to_numpy()
    far, near = np.quantile(values, [0.05, 0.95] if larger_is_closer else [0.95, 0.05])
    within = None if cut is None else float(reaches(values, cut, larger_is_closer).mean())
    found = {"median": float(np.median(values)), "closest_5_percent": float(near), "farthest_5_percent": float(far)}
    return {"n": len(values), **found, "within_cut": within}
