"""Step: sample every condition from the DPM, unguided (Random) or guided (OL-TI, SIDE), in shards."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from side_ray.config import Config, ExtractSection
from side_ray.diffusion.dpm import Dpm, load_dpm
from side_ray.diffusion.guidance import ClassifierGuidance
from side_ray.diffusion.sampler import Noise, sample, sample_seed, target_of
from side_ray.execution.audit import Audit
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, run_shards
from side_ray.images import image_column, to_uint8
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet
from side_ray.storage import Store
from side_ray.surrogate.resnet import ResNet


@dataclass(frozen=True)
class SamplingJob(ShardJob):
    """Samples of one condition: their random stream, λ, and the key of the guiding classifier (None = unguided)."""

    stream: str
    scale: float
    classifier: str | None


@dataclass(frozen=True)
class GeneratorSpec:
    """Everything that a generator needs, by path."""

    store: Store
    dpm: str
    jobs: list[SamplingJob]
    extract: ExtractSection
    seed: int
    precision: str
    threads: int


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
        self.dpm: Dpm = load_dpm(spec.store.fetch_dir(spec.dpm), device=self.device)
        self._classifiers: dict[str, ResNet] = {}
        self._device_lock = threading.Lock()
        self._batch = spec.extract.batch_size

    def make(self, task: Task, row: dict[str, Any]) -> None:
        job = self.spec.jobs[task.job]
        with self._device_lock:
            began = time.perf_counter()
            seeds, targets, classes, images, row["note"] = self._sample(job, task.shard)
            row["seconds_sample"] = time.perf_counter() - began
        began = time.perf_counter()
        first = task.shard * job.output.rows
        columns: dict[str, Any] = {
            "sample_id": pa.array(range(first, first + job.output.rows), pa.int64()),
            "seed": pa.array(seeds, pa.int64()),
        }
        if job.stream == "extract":
            columns["target"] = pa.array(targets, pa.int64()) if targets else pa.nulls(len(seeds), pa.int64())
        if classes is not None:
            columns["class"] = pa.array(classes, pa.int64())
        table = pa.table({**columns, "image": image_column(images)})
        row["seconds_encode"] = time.perf_counter() - began
        began, retries = time.perf_counter(), self.spec.store.retries
        job.output.write(task.shard, table, row["note"])
        row["seconds_write"] = time.perf_counter() - began
        row |= {"retries": self.spec.store.retries - retries, "rows": job.output.rows}

    def _sample(self, job: SamplingJob, shard: int) -> tuple[list[int], list[int], np.ndarray | None, np.ndarray, str]:
        """Seeds, guidance targets, the DPM's own class conditions (None without), images, and what is unusual."""
        rows = job.output.rows
        seeds = [sample_seed(self.spec.seed, job.stream, i) for i in range(shard * rows, (shard + 1) * rows)]
        classifier = self._classifier(job.classifier) if job.classifier else None
        targets = [target_of(seed, classifier.config.num_classes) for seed in seeds] if classifier else []
        classes = self.dpm.condition.classes_of(seeds) if self.dpm.condition else None
        parts, start, note = [], 0, ""
        while start < rows:
            chosen = slice(start, start + self._batch)
            try:
                condition = None if classes is None else classes[chosen]
                parts.append(self._sample_batch(job, seeds[chosen], classifier, targets[chosen], condition))
            except torch.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch //= 2
                torch.cuda.empty_cache()
                continue
            start += self._batch
        if self._batch < self.spec.extract.batch_size:
            note = f"sampled {self._batch} at a time instead of {self.spec.extract.batch_size}: the device ran out of memory"
        return seeds, targets, classes, np.concatenate(parts), note

    def _sample_batch(
        self,
        job: SamplingJob,
        seeds: list[int],
        classifier: ResNet | None,
        targets: list[int],
        classes: np.ndarray | None,
    ) -> np.ndarray:
        """One batch, padded to the working size: a network's last bits depend on how many rows it sees."""
        wanted = len(seeds)
        padding = self._batch - wanted
        seeds = seeds + seeds[-1:] * padding
        guidance = None
        if classifier is not None:
            rows = torch.tensor(targets + targets[-1:] * padding, device=self.device)
            guidance = ClassifierGuidance(classifier, rows, torch.full((self._batch,), job.scale, device=self.device))
        labels = None if classes is None else torch.from_numpy(np.pad(classes, (0, padding), "edge")).to(self.device)
        noise = Noise(seeds, self.dpm.image_shape)
        settings = self.spec.extract
        enabled = self.spec.precision != "fp32"
        dtype = torch.float16 if self.spec.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=dtype, enabled=enabled):
            images = sample(
                self.dpm,
                noise,
                sampler=settings.sampler,
                steps=settings.steps,
                eta=settings.eta,
                guidance=guidance,
                class_labels=labels,
                guidance_interval=settings.guidance_interval,
            )
        return to_uint8(images[:wanted])

    def _classifier(self, directory: str) -> ResNet:
        if directory not in self._classifiers:
            network = ResNet.load(self.spec.store.fetch_dir(directory)).to(self.device).eval()
            self._classifiers[directory] = network.requires_grad_(False)
        return self._classifiers[directory]


def extract(audit: Audit) -> None:
    """Sample every condition of the audit: x ~ p_θ(x)·p_t(y|x)^λ, Eq. 151 and 152.

    Raises:
        RunError: some shards failed. The message names them; all others are written.
    """
    artifacts, many = audit.artifacts, conditions(audit.config)
    run_sampling(audit, [sampling_job(each, artifacts, artifacts.samples(each)) for each in many], "extract")
    audit.run.point_latest(samples={each.name: artifacts.samples(each).directory for each in many})


def sampling_job(condition: Condition, artifacts: Artifacts, output: ShardSet) -> SamplingJob:
    """The job that samples N_G images of a condition into `output`."""
    return SamplingJob(output, artifacts.sample_shards, "extract", condition.scale, artifacts.classifier(condition))


def run_sampling(audit: Audit, jobs: list[SamplingJob], title: str, dpm: Artifact | None = None) -> None:
    """Make the missing samples of all jobs, with the audited DPM or with `dpm`. Raises what `run_shards` does."""
    run_shards(audit, Generator, jobs, lambda: generator_spec(audit.artifacts, jobs, dpm), title)


def generator_spec(artifacts: Artifacts, jobs: list[SamplingJob], dpm: Artifact | None = None) -> GeneratorSpec:
    """What a generator needs for these jobs."""
    config = artifacts.config
    return GeneratorSpec(
        artifacts.run.store,
        (dpm or artifacts.dpm).key,
        jobs,
        config.extract,
        config.run.seed,
        config.cluster.precision,
        config.cluster.actor_cpus,
    )
