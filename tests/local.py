"""A small audit without Ray: the stages' own actors, called one after the other, on the closed-form DPM of 60 digits."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ray import cloudpickle
from rich.console import Console

from side_ray.config import Config
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.execution.audit import Audit
from side_ray.execution.ingest.passes import Failure, Pass
from side_ray.execution.privacy import privacy
from side_ray.execution.progress import Reporter
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_latents
from side_ray.runs.status import record
from side_ray.stages.extract import extract
from side_ray.stages.label import FOUND
from side_ray.stages.prepare import prepare
from side_ray.stages.report import report
from side_ray.stages.score import score
from side_ray.stages.synthesize import synthesize
from side_ray.stages.train_dpm import train_dpm
from side_ray.surrogate.resnet import ResNet
from tests.audits import tiny_config

USERS = (
    "stages.extract",
    "stages.score",
    "stages.import_samples",
    "execution.privacy",
    "execution.derived.reconstruct",
    "execution.derived.embed",
    "studies.theory",
)
"""The modules of steps that make shards."""
TASKS = ("stages.score", "stages.synthesize", "stages.extract", "stages.label", "execution.derived.frechet")
"""Those of steps that run in one task."""


def sent(value: Any) -> Any:
    """What another process gets of a value."""
    return cloudpickle.loads(cloudpickle.dumps(value))


def run_here(
    audit: Audit,
    actor: type[ShardActor],
    jobs: Sequence[ShardJob],
    spec: Callable[[], Any],
    title: str,
    unit: str = "samples",
) -> None:
    """`run_shards` in this process."""
    missing = [Task(number, shard) for number, job in enumerate(jobs) for shard in job.output.missing(job.shards)]
    if missing:
        worker = actor(sent(spec()))
        for task in missing:
            worker.make(task, worker.new_row(task))


def pass_here(work: Pass, units: Sequence[int], cluster: Any, bar: Any) -> dict[int, Failure]:
    """`run_pass` in this process."""
    work = sent(work)
    for unit in units:
        work.make(unit)
    return {}


def audit_here(uri: str | Path, **changes: Any) -> Artifacts:
    """An audit of Random and SIDE at λ = 2, guided by an untrained student; `changes` as of `tiny_config`."""
    changes = {
        "dpm__kind": "optimal",
        "surrogate__labels": "random",
        "extract__methods": ["random", "td"],
        "score__shards": 1,
        "surrogate__synthetic": 100,
        "extract__samples": 100,
    } | changes
    config = tiny_config(uri, **changes)
    return stages_here(config, [prepare, train_dpm, synthesize, _student, extract, score, privacy, report])


def stages_here(config: Config, stages: Sequence[Callable[[Audit], None]]) -> Artifacts:
    audit = Audit.open(config, Reporter(Console(quiet=True)))
    record(audit.artifacts)
    with without_ray():
        for stage in stages:
            stage(audit)
    return audit.artifacts


@contextmanager
def without_ray() -> Iterator[None]:
    """Shards and passes are made in this process while the block runs. Training still needs Ray."""
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        for name in USERS:
            stack.enter_context(patch(f"side_ray.{name}.run_shards", run_here))
        stack.enter_context(patch("side_ray.stages.prepare.run_pass", pass_here))
        for name in ("stages.prepare", *TASKS):
            stack.enter_context(patch(f"side_ray.{name}.ensure_ray"))
        for name in TASKS:
            path = f"side_ray.{name}.run_remotely"
            stack.enter_context(patch(path, lambda function, *given, **_: function(*sent(given))))
        yield
    torch.set_num_threads(threads)


def _student(audit: Audit) -> None:
    surrogate, section = audit.artifacts.surrogate, audit.config.surrogate
    surrogate.write_json(FOUND, {"classes": section.classes, "labelled": section.synthetic})
    student, artifacts = surrogate.child("student"), audit.artifacts
    torch.manual_seed(0)
    latents = read_latents(artifacts.synthetic, artifacts.synthetic_shards) if artifacts.latent else None
    channels = 1 if latents is None else latents.shape[1]
    network = ResNet.from_section(section, num_classes=section.classes, in_channels=channels, time=True)
    with tempfile.TemporaryDirectory() as directory:
        network.save(Path(directory))
        if latents is not None:
            LatentStatistics.of(latents).save(Path(directory))
        student.store.put_dir(Path(directory), student.key)
    curve = [{"first": 0, "last": 999, "hits": 1, "count": 2}]
    student.finish(classes=section.classes, accuracy=curve, truth=np.ones(section.classes, int).tolist())
    surrogate.finish(methods=["td"])
    audit.run.point_latest(surrogate=surrogate.key)
