"""Progress of a run, read from its storage alone, so it works on any machine that can read the run directory."""

import time
from dataclasses import dataclass

from rich.table import Table

from side_ray.config import Config
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.report.wording import duration
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.control import control_artifacts, control_conditions, control_samples, control_scores
from side_ray.runs.plan import conditions
from side_ray.runs.run import Artifact, Run, read_progress
from side_ray.runs.shards import ShardSet
from side_ray.storage import Store

# The rate is computed from shards that were written within this time.
RECENT_S = 600.0


@dataclass(frozen=True)
class Row:
    """One stage: finished and total units, recent rate in units/s (None = unknown), and keys of failed shards."""

    stage: str
    done: int
    total: int
    unit: str
    rate: float | None = None
    failed: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        return max(0, self.total - self.done)


def read_config(store: Store, where: str) -> Config:
    """The config of the last command on a run.

    Raises:
        UserError: there is no run at this place.
    """
    import yaml

    try:
        return parse_config(yaml.safe_load(store.read("config.yaml")), f"{where}/config.yaml")
    except FileNotFoundError:
        raise UserError(f"{where}: holds no run (no config.yaml); check the path and, for S3, the endpoint") from None


def rows(store: Store, where: str) -> list[Row]:
    """The stages of a run in order; each costs one listing per condition. Raises UserError if there is no run."""
    config = read_config(store, where)
    artifacts = Artifacts(config, Run(store))
    size = config.extract.shard_size
    steps = {"student": config.surrogate.steps, "ol_ti": config.surrogate.ti_steps}
    wanted = [name for name, method in (("student", "td"), ("ol_ti", "ti")) if method in config.extract.methods]
    return [
        Row("prepare", int(artifacts.prepare.done), 1, "data set"),
        _training("train_dpm", artifacts.dpm, config.dpm.steps),
        _shards("synthetic", [artifacts.synthetic], config.surrogate.synthetic // size, "samples"),
        *(_training(f"train_surrogate: {name}", artifacts.surrogate.child(name), steps[name]) for name in wanted),
        _shards(
            "extract",
            [artifacts.samples(each) for each in conditions(config)],
            config.extract.samples // size,
            "samples",
        ),
        _shards(
            "score", [artifacts.scores(each) for each in conditions(config)], config.extract.samples // size, "samples"
        ),
        *(_control_rows(artifacts) if config.control else ()),
        Row("report", int(artifacts.report.done), 1, "report"),
    ]


def _control_rows(artifacts: Artifacts) -> list[Row]:
    config = artifacts.config
    other, wanted = control_artifacts(artifacts), control_conditions(config)
    samples = [control_samples(artifacts, other, each) for each in wanted]
    scores = [control_scores(artifacts, other, each) for each in wanted]
    return [
        _training("control: train_dpm", other.dpm, config.dpm.steps),
        _shards("control: extract", samples, artifacts.sample_shards, "samples"),
        _shards("control: score", scores, artifacts.sample_shards, "samples"),
    ]


def table(found: list[Row]) -> Table:
    """The rows as a table for the terminal."""
    shown = Table("stage", "done", "left", "rate", "ETA", "failed shards", box=None)
    for row in found:
        rate = "" if row.rate is None else f"{row.rate:,.1f}/s"
        eta = duration(row.left / row.rate) if row.rate and row.left else ""
        failed = ", ".join(row.failed[:3]) + (f" and {len(row.failed) - 3} more" if len(row.failed) > 3 else "")
        shown.add_row(row.stage, f"{row.done:,} of {row.total:,} {row.unit}", f"{row.left:,}", rate, eta, failed)
    return shown


def _training(stage: str, artifact: Artifact, steps: int) -> Row:
    if artifact.done:
        return Row(stage, steps, steps, "steps")
    progress = read_progress(artifact)
    recent = time.time() - progress.get("at", 0.0) < RECENT_S
    return Row(stage, progress.get("step", 0), steps, "steps", progress.get("rate") if recent else None)


def _shards(stage: str, sets: list[ShardSet], count: int, unit: str) -> Row:
    now = time.time()
    done, recent, failed = 0, [], []
    for shards in sets:
        written = {index: mtime for index, mtime in shards.written().items() if index < count}
        done += len(written)
        recent += [mtime for mtime in written.values() if now - mtime < RECENT_S]
        failed += [shards.key(index) for index in shards.failures() if index not in written]
    rows_each = sets[0].rows
    rate = (
        (len(recent) - 1) * rows_each / (max(recent) - min(recent))
        if len(recent) > 1 and max(recent) > min(recent)
        else None
    )
    return Row(stage, done * rows_each, count * len(sets) * rows_each, unit, rate, tuple(failed))
