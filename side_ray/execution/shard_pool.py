"""Makes shards by a pool of actors with Ray Data. What comes back to the driver is one row of statistics per shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from side_ray.config import Config
from side_ray.errors import RunError, UserError, one_line
from side_ray.execution.audit import Audit
from side_ray.execution.metrics import count_shard
from side_ray.execution.progress import Bar
from side_ray.execution.session import ensure_ray
from side_ray.runs.shards import DamagedShard, ShardSet

MOST_BLOCKS = 2000
"""Ray Data keeps bookkeeping per block: past this many shards a block holds several, still made one by one."""
MOST_NAMED = 5


@dataclass(frozen=True)
class ShardJob:
    """Shards that are to be there: the first `shards` of `output`. A stage's subclass says how they are made."""

    output: ShardSet
    shards: int

    def rows(self, indices: Sequence[int] | range) -> int:
        """Rows of some of its shards."""
        return sum(self.output.size(index) for index in indices)


@dataclass(frozen=True)
class Task:
    """One shard to make: `job` is the index of its job, `shard` its index in that job's output."""

    job: int
    shard: int


@dataclass
class Outcome:
    """What became of a stage's tasks. `damaged` are the keys of input shards that could not be read."""

    finished: int = 0
    failures: dict[Task, str] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)


class ShardActor:
    """Makes shards, one per call, for Ray Data's `map_batches`; a subclass says how, and what it needs.

    Two calls run at a time in one actor, so that one can encode and write while the other has the device.
    """

    stage: ClassVar[str]
    phases: ClassVar[tuple[str, ...]]

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        """Whether an actor holds `cluster.gpus`."""
        raise NotImplementedError

    def make(self, task: Task, row: dict[str, Any]) -> None:
        """Make and write one shard; note in `row` the seconds of each phase, retries, and what is unusual about it.

        Raises:
            DamagedShard: the shard that this one is made from cannot be read.
            UserError: the store failed after its own retries, or the input is wrong: every other shard would fail too.
        """
        raise NotImplementedError

    def new_row(self, task: Task) -> dict[str, Any]:
        """The statistics of a shard that is not made yet."""
        row: dict[str, Any] = {"job": task.job, "shard": task.shard, "retries": 0, "rows": 0, "note": ""}
        row |= {"error": "", "final": False, "damaged": ""}
        return row | {f"seconds_{phase}": 0.0 for phase in self.phases}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        task = Task(int(batch["job"][0]), int(batch["shard"][0]))
        row = self.new_row(task)
        try:
            self.make(task, row)
        except DamagedShard as damage:
            row |= {"error": str(damage), "damaged": damage.key}
        except UserError as error:
            row |= {"error": str(error), "final": True}
        except Exception as error:  # a failure stays with its shard; the driver names it when the others are done
            row["error"] = one_line(error)
        count_shard(self.stage, self.phases, row)
        return {name: np.array([value]) for name, value in row.items()}


def run_shards(
    audit: Audit,
    actor: type[ShardActor],
    jobs: Sequence[ShardJob],
    spec: Callable[[], Any],
    title: str,
    unit: str = "samples",
) -> None:
    """Have the missing shards of all jobs made by a pool of `actor`s; does nothing where none is missing.

    Shard by shard over all jobs, so that an interrupted run has the same samples of every condition. An actor or node that
    dies has its shards made by another one. A failure stays with its shard, and the others finish; a failure that every shard
    would meet (a full disk, a wrong key) ends the stage at once.

    Args:
        spec: makes what the actors are constructed with, once Ray runs: small and picklable, paths instead of data.

    Raises:
        DamagedShard: some input shards cannot be read. They are deleted: make them again, then call this again.
        RunError: some shards failed; the others are written, and the message names those that failed.
    """
    missing = [job.output.missing(job.shards) for job in jobs]
    tasks = sorted((Task(j, s) for j, left in enumerate(missing) for s in left), key=lambda t: (t.shard, t.job))
    total = sum(job.rows(range(job.shards)) for job in jobs)
    if not tasks:
        audit.reporter.say(f"{title}: {total:,} {unit} are there")
        return
    left = sum(job.rows(indices) for job, indices in zip(jobs, missing, strict=True))
    ensure_ray(audit.config.cluster)
    with audit.reporter.bar(title, total, unit, done=total - left) as bar:
        outcome = run_tasks(actor, spec(), tasks, audit.config, bar)
    for note in sorted(outcome.notes):
        audit.reporter.warn(note)
    _settle(title, [job.output for job in jobs], outcome)


def run_tasks(actor: type[ShardActor], spec: Any, tasks: Sequence[Task], config: Config, bar: Bar) -> Outcome:
    """Have every task done by a pool of `actor`s, each constructed with `spec`; `bar` advances by the rows of every shard.

    Raises:
        RunError: Ray or the store cannot continue at all.
    """
    outcome = Outcome()
    for row in _stream(actor, spec, tasks, config) if tasks else ():
        task = Task(row["job"], row["shard"])
        if row["final"]:
            raise RunError(f"{row['error']}; finished shards are kept: run the same command again to resume")
        if row["damaged"]:
            outcome.damaged.add(row["damaged"])
        elif row["error"]:
            outcome.failures[task] = row["error"]
        else:
            outcome.finished += 1
            bar.advance(row["rows"], row["retries"])
        if row["note"]:
            outcome.notes.add(row["note"])
        for phase in actor.phases:
            outcome.seconds[phase] = outcome.seconds.get(phase, 0.0) + row[f"seconds_{phase}"]
    return outcome


def _settle(title: str, outputs: Sequence[ShardSet], outcome: Outcome) -> None:
    """Record failed shards beside the finished ones, for `status`; delete damaged inputs; raise if there are any."""
    for number, shards in enumerate(outputs):
        shards.record_failures({task.shard: why for task, why in outcome.failures.items() if task.job == number})
    if outcome.damaged:
        first, *others = sorted(outcome.damaged)
        for key in others:
            outputs[0].store.delete(key)
        raise DamagedShard(first, f"and {len(others)} others cannot be read" if others else "cannot be read")
    if outcome.failures:
        named = [
            f"{outputs[task.job].key(task.shard)} ({reason})"
            for task, reason in list(outcome.failures.items())[:MOST_NAMED]
        ]
        more = f" and {len(outcome.failures) - MOST_NAMED} more" if len(outcome.failures) > MOST_NAMED else ""
        raise RunError(
            f"{title}: {len(outcome.failures)} shards failed: {'; '.join(named)}{more}. "
            "All others are kept; run the same command again to retry"
        )


def _stream(actor: type[ShardActor], spec: Any, tasks: Sequence[Task], config: Config) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray.exceptions import RayError

    cluster = config.cluster
    table = pa.table({"job": [task.job for task in tasks], "shard": [task.shard for task in tasks]})
    rows_per_block = -(-len(tasks) // MOST_BLOCKS)
    blocks = [table.slice(start, rows_per_block) for start in range(0, len(tasks), rows_per_block)]
    least, most = min(cluster.actors[0], len(tasks)), min(cluster.actors[1], len(tasks))
    dataset = ray.data.from_arrow(blocks).map_batches(
        actor,
        fn_constructor_args=(spec,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            initial_size=most,
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        num_cpus=cluster.actor_cpus,
        num_gpus=(float(cluster.gpus) or None) if actor.uses_gpu(config) else None,
    )
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        raise RunError(
            f"Ray stopped ({one_line(error)}); finished shards are kept: run the same command again to resume"
        ) from error
