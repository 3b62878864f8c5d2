"""Samples from the DPM, unguided or guided, shard by shard. Makes the synthetic set and every condition of the audit."""

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
from side_ray.execution.progress import Reporter
from side_ray.execution.session import ensure_ray
from side_ray.execution.shard_pool import ShardActor, Task, report_failures, run_tasks
from side_ray.images import image_column, to_uint8
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet
from side_ray.storage import Store
from side_ray.surrogate.resnet import ResNet


@dataclass(frozen=True)
class Group:
    """The shards of one condition and what samples them: the classifier's directory (None = unguided) and λ."""

    shards: ShardSet
    stream: str
    scale: float
    classifier: str | None


@dataclass(frozen=True)
class GeneratorSpec:
    """Everything that a generator needs, by path."""

    store: Store
    dpm: str
    groups: list[Group]
    extract: ExtractSection
    seed: int
    precision: str
    threads: int


class Generator(ShardActor):
    """Samples whole shards and writes them. One call samples while another's shard is encoded and written."""

    stage = "extract"
    phases = ("sample", "encode", "write")

    def __init__(self, spec: GeneratorSpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dpm: Dpm = load_dpm(spec.store.fetch_dir(spec.dpm), device=self.device)
        self._classifiers: dict[str, ResNet] = {}
        self._device_lock = threading.Lock()
        self._batch = spec.extract.batch_size

    def make(self, task: Task, row: dict[str, Any]) -> None:
        group = self.spec.groups[task.group]
        with self._device_lock:
            began = time.perf_counter()
            seeds, targets, classes, images, row["note"] = self._sample(group, task.shard)
            row["seconds_sample"] = time.perf_counter() - began
        began = time.perf_counter()
        first = task.shard * group.shards.rows
        columns: dict[str, Any] = {
            "sample_id": pa.array(range(first, first + group.shards.rows), pa.int64()),
            "seed": pa.array(seeds, pa.int64()),
        }
        if group.stream == "extract":
            columns["target"] = pa.array(targets, pa.int64()) if targets else pa.nulls(len(seeds), pa.int64())
        if classes is not None:
            columns["class"] = pa.array(classes, pa.int64())
        table = pa.table({**columns, "image": image_column(images)})
        row["seconds_encode"] = time.perf_counter() - began
        began, retries = time.perf_counter(), self.spec.store.retries
        group.shards.write(task.shard, table, row["note"])
        row["seconds_write"] = time.perf_counter() - began
        row |= {"retries": self.spec.store.retries - retries, "rows": group.shards.rows}

    def _sample(self, group: Group, shard: int) -> tuple[list[int], list[int], np.ndarray | None, np.ndarray, str]:
        """Seeds, guidance targets, the DPM's own class conditions (None without), images, and what is unusual."""
        rows = group.shards.rows
        seeds = [sample_seed(self.spec.seed, group.stream, i) for i in range(shard * rows, (shard + 1) * rows)]
        classifier = self._classifier(group.classifier) if group.classifier else None
        targets = [target_of(seed, classifier.config.num_classes) for seed in seeds] if classifier else []
        classes = self.dpm.condition.classes_of(seeds) if self.dpm.condition else None
        parts, start, note = [], 0, ""
        while start < rows:
            chosen = slice(start, start + self._batch)
            try:
                condition = None if classes is None else classes[chosen]
                parts.append(self._sample_batch(group, seeds[chosen], classifier, targets[chosen], condition))
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
        group: Group,
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
            guidance = ClassifierGuidance(classifier, rows, torch.full((self._batch,), group.scale, device=self.device))
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


def extract_synthetic(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Sample the synthetic set: λ = 0, stream `synthetic`."""
    group = Group(artifacts.synthetic, "synthetic", 0.0, None)
    sample_groups(config, artifacts, [group], config.surrogate.synthetic, "synthetic", reporter)
    artifacts.run.point_latest(synthetic=artifacts.synthetic.directory)


def extract(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Sample every condition of the audit.

    Raises:
        RunError: some shards failed; the others are written, and the message names those.
    """
    groups = [group_of(each, artifacts) for each in conditions(config)]
    sample_groups(config, artifacts, groups, config.extract.samples, "extract", reporter)
    artifacts.run.point_latest(samples=sample_paths(config, artifacts))


def group_of(condition: Condition, artifacts: Artifacts) -> Group:
    """What samples a condition."""
    return Group(artifacts.samples(condition), "extract", condition.scale, classifier_of(condition, artifacts))


def classifier_of(condition: Condition, artifacts: Artifacts) -> str | None:
    """Where the classifier that guides a condition lies; None for Random."""
    part = {"random": None, "td": "student", "ti": "ol_ti"}[condition.method]
    return artifacts.surrogate.child(part).key if part else None


def sample_paths(config: Config, artifacts: Artifacts) -> dict[str, str]:
    """Where each condition's samples lie, by the condition's name."""
    return {each.name: artifacts.samples(each).directory for each in conditions(config)}


def sample_groups(
    config: Config,
    artifacts: Artifacts,
    groups: list[Group],
    samples: int,
    title: str,
    reporter: Reporter,
    dpm: Artifact | None = None,
) -> None:
    """Have the missing ones of the first `samples` samples of each group made, from the audited DPM or another one.

    Raises:
        RunError: some shards failed; the others are written, and the message names those.
    """
    size = config.extract.shard_size
    count = samples // size
    missing = [group.shards.missing(count) for group in groups]
    # Shard by shard over all conditions: an interrupted run then holds the same samples of every λ.
    tasks = sorted(
        (Task(g, s) for g, left in enumerate(missing) for s in left), key=lambda task: (task.shard, task.group)
    )
    total = samples * len(groups)
    if not tasks:
        reporter.say(f"{title}: {total:,} samples are there")
        return
    spec = GeneratorSpec(
        artifacts.run.store,
        (dpm or artifacts.dpm).key,
        groups,
        config.extract,
        config.run.seed,
        config.cluster.precision,
        config.cluster.actor_cpus,
    )
    ensure_ray(config.cluster)
    with reporter.bar(title, total, "samples", done=total - size * len(tasks)) as bar:
        outcome = run_tasks(Generator, spec, tasks, config.cluster, bar)
    for note in sorted(outcome.notes):
        reporter.warn(note)
    report_failures(title, [group.shards for group in groups], outcome)
