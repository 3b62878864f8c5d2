"""Samples from the DPM, unguided or guided, shard by shard. Makes the synthetic set and every condition of the audit."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from side_ray.config import Config
from side_ray.diffusion.dpm import Dpm, load_dpm
from side_ray.diffusion.draw import Drawn, DrawSettings, draw
from side_ray.diffusion.guidance import ClassifierSurrogate
from side_ray.diffusion.sampler import sample_seed
from side_ray.execution.progress import Reporter
from side_ray.execution.session import ensure_ray
from side_ray.execution.shard_pool import ShardActor, Task, report_failures, run_tasks
from side_ray.images import image_column
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
    settings: DrawSettings
    seed: int
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
        self._batch = spec.settings.batch_size

    def make(self, task: Task, row: dict[str, Any]) -> None:
        group = self.spec.groups[task.group]
        first = task.shard * group.shards.rows
        ids = range(first, first + group.shards.rows)
        seeds = [sample_seed(self.spec.seed, group.stream, i) for i in ids]
        with self._device_lock:
            began = time.perf_counter()
            drawn = self._draw(group, seeds)
            row |= {"seconds_sample": time.perf_counter() - began, "note": drawn.note}
        began = time.perf_counter()
        columns: dict[str, Any] = {"sample_id": pa.array(ids, pa.int64()), "seed": pa.array(seeds, pa.int64())}
        if group.stream == "extract":
            nulls = pa.nulls(len(seeds), pa.int64())
            columns["target"] = nulls if drawn.targets is None else pa.array(drawn.targets, pa.int64())
        if drawn.classes is not None:
            columns["class"] = pa.array(drawn.classes, pa.int64())
        table = pa.table({**columns, "image": image_column(drawn.images)})
        row["seconds_encode"] = time.perf_counter() - began
        began, retries = time.perf_counter(), self.spec.store.retries
        group.shards.write(task.shard, table, row["note"])
        row["seconds_write"] = time.perf_counter() - began
        row |= {"retries": self.spec.store.retries - retries, "rows": group.shards.rows}

    def _draw(self, group: Group, seeds: list[int]) -> Drawn:
        surrogate = None
        if group.classifier:
            classifier = self._classifier(group.classifier)
            surrogate = ClassifierSurrogate(classifier, classifier.config.num_classes, group.scale)
        drawn = draw(self.dpm, seeds, self.spec.settings, surrogate, batch_size=self._batch)
        self._batch = drawn.batch_size
        return drawn

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
        DrawSettings.of(config.extract, config.cluster.precision),
        config.run.seed,
        config.cluster.actor_cpus,
    )
    ensure_ray(config.cluster)
    with reporter.bar(title, total, "samples", done=total - size * len(tasks)) as bar:
        outcome = run_tasks(Generator, spec, tasks, config.cluster, bar)
    for note in sorted(outcome.notes):
        reporter.warn(note)
    report_failures(title, [group.shards for group in groups], outcome)
