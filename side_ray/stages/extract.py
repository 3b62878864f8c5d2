"""Step: sample every condition from the DPM, unguided (Random) or guided (OL-TI, SIDE, a base model), in shards."""

import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch

from side_ray.config import Config
from side_ray.diffusion.condition.drawn import Conditioning
from side_ray.diffusion.dpm import Dpm, load_dpm
from side_ray.diffusion.draw import Drawn, DrawSettings, draw
from side_ray.diffusion.extrapolation import Extrapolation
from side_ray.diffusion.guidance import ClassifierSurrogate
from side_ray.diffusion.sampler import sample_seed
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.execution.audit import Audit
from side_ray.execution.session import ensure_ray, run_remotely
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, pending, run_shards
from side_ray.images import image_column
from side_ray.registry import Carrier
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import latent_column, read_latents
from side_ray.runs.imported.conditions import completed
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet
from side_ray.stages.score import scored_beside
from side_ray.storage import Store
from side_ray.storage.scratch import scratch
from side_ray.surrogate.guide import open_base, open_surrogate
from side_ray.surrogate.lora import LoraSurrogate


@dataclass(frozen=True)
class SamplingJob(ShardJob):
    """Samples of one condition: their random stream, λ, and the key of the guiding classifier or model (None = unguided)."""

    stream: str
    scale: float
    classifier: str | None


@dataclass(frozen=True)
class BaseSpec:
    """A base model: its key, for a latent model the key of the range of its latents, `extract.base_interval`, and whether it may
    be code."""

    key: str
    latents: str | None
    interval: tuple[float, float] | None
    code: bool


@dataclass(frozen=True)
class GeneratorSpec(Carrier):
    """Everything that a generator needs, by path."""

    store: Store
    dpm: str
    jobs: list[SamplingJob]
    settings: DrawSettings
    seed: int
    threads: int
    code: bool = False
    """Whether the model may be code, which the config names."""
    condition: str | None = None
    """Key of what the conditions of samples are drawn from, where that is neither in `settings` nor in the model."""
    base: BaseSpec | None = None


class Generator(ShardActor):
    """Samples whole shards and writes them. One call samples while another's shard is encoded and written."""

    stage = "extract"
    phases = ("sample", "encode", "write")

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return True

    def __init__(self, spec: GeneratorSpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dpm: Dpm
        self._surrogates: dict[str, ClassifierSurrogate | LoraSurrogate | Extrapolation] = {}
        self._device_lock = threading.Lock()
        self._batch = spec.settings.batch_size

    def load(self) -> None:
        conditioning = self.spec.settings.conditioning
        if self.spec.condition is not None:
            conditioning = completed(conditioning, Artifact(self.spec.store, self.spec.condition))
        self._settings = replace(self.spec.settings, conditioning=conditioning)
        model = self.fetched(Artifact(self.spec.store, self.spec.dpm))
        self.dpm = load_dpm(model, device=self.device, code=self.spec.code)

    def make(self, task: Task, row: dict[str, Any]) -> None:
        self.ready()
        job = self.spec.jobs[task.job]
        first = task.shard * job.output.rows
        ids = range(first, first + job.output.rows)
        seeds = [sample_seed(self.spec.seed, job.stream, i) for i in ids]
        with self._device_lock:
            began = time.perf_counter()
            drawn = self._draw(job, seeds)
            row |= {"seconds_sample": time.perf_counter() - began, "note": drawn.note}
        began = time.perf_counter()
        columns: dict[str, Any] = {"sample_id": pa.array(ids, pa.int64()), "seed": pa.array(seeds, pa.int64())}
        if job.stream == "extract":
            nulls = pa.nulls(len(seeds), pa.int64())
            columns["target"] = nulls if drawn.targets is None else pa.array(drawn.targets, pa.int64())
        if drawn.classes is not None:
            columns["class"] = pa.array(drawn.classes, pa.int64())
        if drawn.prompts is not None:
            columns["prompt"] = pa.array(drawn.prompts, pa.string())
        table = pa.table({**columns, "image": image_column(drawn.images)})
        if drawn.latents is not None and job.stream == "synthetic":
            table = table.append_column(*latent_column(drawn.latents))
        row["seconds_encode"] = time.perf_counter() - began
        self.check_weights()
        began, retries = time.perf_counter(), self.spec.store.retries
        job.output.write(task.shard, table, row["note"])
        row["seconds_write"] = time.perf_counter() - began
        row |= {"retries": self.spec.store.retries - retries, "rows": job.output.rows}

    def _draw(self, job: SamplingJob, seeds: list[int]) -> Drawn:
        surrogate = None
        if job.classifier:
            surrogate = replace(self._surrogate(job.classifier), scale=job.scale)
        drawn = draw(self.dpm, seeds, self._settings, surrogate, batch_size=self._batch)
        self._batch = drawn.batch_size
        return drawn

    def _surrogate(self, directory: str) -> ClassifierSurrogate | LoraSurrogate | Extrapolation:
        if directory not in self._surrogates:
            fetched, base = self.fetched(Artifact(self.spec.store, directory)), self.spec.base
            if base is not None and directory == base.key:
                latents = None if base.latents is None else Artifact(self.spec.store, base.latents).fetch()
                self._surrogates[directory] = open_base(
                    fetched, 0.0, self.device, latents, base.interval, code=base.code
                )
            else:
                self._surrogates[directory] = open_surrogate(fetched, 0.0, self.device, self.dpm)
        return self._surrogates[directory]


def extract(audit: Audit) -> None:
    """Sample every condition of the audit: x ~ p_θ(x)·p_t(y|x)^λ, Eq. 151 and 152.

    Raises:
        RunError: some shards failed. The message names them; all others are written.
    """
    artifacts, many = audit.artifacts, conditions(audit.config)
    if artifacts.latents is not None:
        measure_latents(audit, artifacts.latents)
    jobs = [sampling_job(each, artifacts, artifacts.samples(each)) for each in many]
    gpus = audit.config.cluster.gpus if Generator.uses_gpu(audit.config) else 0
    with scored_beside(audit, gpus) if pending(jobs) else nullcontext():
        run_sampling(audit, jobs, "extract")
    audit.run.point_latest(samples={each.name: artifacts.samples(each).directory for each in many})


def measure_latents(audit: Audit, target: Artifact) -> None:
    """Write the range of the latents of the synthetic set; does nothing if that was done."""
    if not audit.has(target):
        cluster = audit.config.cluster
        ensure_ray(cluster)
        found = run_remotely(
            statistics_of, audit.artifacts, title="latents", cpus=cluster.actor_cpus, gpus=0, retries=3
        )
        with scratch() as directory:
            found.save(directory)
            target.put_dir(directory)
        target.finish()
    audit.run.point_latest(latents=target.key)


def statistics_of(artifacts: Artifacts) -> LatentStatistics:
    """Those of the synthetic set of a latent model."""
    return LatentStatistics.of(read_latents(artifacts.synthetic, artifacts.synthetic_shards))


def sampling_job(condition: Condition, artifacts: Artifacts, output: ShardSet) -> SamplingJob:
    """The job that samples N_G images of a condition into `output`."""
    return SamplingJob(output, artifacts.sample_shards, "extract", condition.scale, artifacts.classifier(condition))


def run_sampling(audit: Audit, jobs: list[SamplingJob], title: str, dpm: Artifact | None = None) -> None:
    """Make the missing samples of all jobs, with the audited DPM or with `dpm`. Raises what `run_shards` does."""
    run_shards(audit, Generator, jobs, lambda: generator_spec(audit.artifacts, jobs, dpm), title)


def generator_spec(artifacts: Artifacts, jobs: list[SamplingJob], dpm: Artifact | None = None) -> GeneratorSpec:
    """What a generator needs for these jobs."""
    config, base = artifacts.config, None
    if artifacts.base is not None and config.of_base is not None:
        latents = None if artifacts.latents is None else artifacts.latents.key
        code = config.of_base.dpm.function is not None
        base = BaseSpec(artifacts.base.key, latents, config.extract.base_interval, code)
    return GeneratorSpec(
        artifacts.run.store,
        (dpm or artifacts.dpm).key,
        jobs,
        DrawSettings.of(config.extract, config.cluster.precision, Conditioning.of(config.dpm)),
        config.run.seed,
        config.cluster.actor_cpus,
        config.dpm.function is not None,
        None if artifacts.condition is None else artifacts.condition.key,
        base,
    )
