"""Makes shards with a pool of Ray Data actors. Each shard returns only one row of statistics to the driver."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from side_ray.config import Config
from side_ray.errors import Damaged, RunError, UserError, joined, one_line
from side_ray.execution.metrics import count_shard, show_progress
from side_ray.execution.progress import Bar
from side_ray.execution.session import check_room, ensure_ray
from side_ray.runs.imported.references import References
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet

if TYPE_CHECKING:
    from side_ray.execution.audit import Audit

MOST_BLOCKS = 2000
"""Blocks that a stage is first divided into, since Ray Data keeps state for each. With more shards a block holds several, made
one after the other."""
IN_FLIGHT = 2
"""Blocks that an actor holds at a time."""
MOST_NAMED = 5


@dataclass(frozen=True)
class ShardJob:
    """The first `shards` shards of `output` are to be made. Each stage's subclass adds what its actor needs for that."""

    output: ShardSet
    shards: int

    def rows(self, indices: Sequence[int] | range) -> int:
        """Total number of rows in these shards of `output`."""
        return sum(self.output.size(index) for index in indices)


class Task(NamedTuple):
    """One shard to make: `job` is the index of its job, `shard` its index in the output of that job."""

    job: int
    shard: int


@dataclass
class Outcome:
    """Result of a stage's tasks: finished shards, failures, damaged inputs, seconds by phase, and notes."""

    finished: int = 0
    failures: dict[Task, str] = field(default_factory=dict)
    damages: list[Damaged] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)


class ShardActor:
    """Makes one shard per call, for Ray Data's `map_batches`. Subclasses implement `make`, `uses_gpu` and `load`.

    Two calls run concurrently in an actor, so that one can encode and write while the other uses the device.
    """

    stage: ClassVar[str]
    phases: ClassVar[tuple[str, ...]]
    spec: Any
    loading = loaded = False
    _referenced: tuple[References, ...] = ()
    _loading: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        """Whether an actor reserves `cluster.gpus` GPUs."""
        raise NotImplementedError

    def load(self) -> None:
        """Load what every shard needs, when `make` calls `ready`. Ray Data does not return what a constructor raises.

        Raises:
            Damaged: files that it reads are damaged.
        """

    def ready(self) -> None:
        """`load`, the first time only. Raises what it does."""
        with self._loading:
            if not self.loaded:
                self.loading = True
                self.load()
                self.loaded = True

    def fetched(self, model: Artifact) -> Path:
        """`fetch` of a model. What it refers to is checked again by `check_weights`."""
        directory = model.fetch()
        if references := model.references():
            self._referenced += (references,)
        return directory

    def check_weights(self) -> None:
        """Check that no weights of a fetched model have changed since. To be called before a shard that they made is written: a
        file that changes between its check and its use, or while it is mapped into memory, would be another model.

        Raises:
            UserError: some have.
        """
        for each in self._referenced:
            each.check_local()

    def make(self, task: Task, row: dict[str, Any]) -> None:
        """Make and write one shard; record in `row` the seconds of each phase, the retries, the rows, and a note if needed.

        Raises:
            Damaged: files that it reads are damaged.
            UserError: the store failed after its own retries, or the input is wrong. Every other shard would fail too.
        """
        raise NotImplementedError

    def output(self, task: Task) -> ShardSet:
        """The shards that a task's shard belongs to."""
        output: ShardSet = self.spec.jobs[task.job].output
        return output

    def new_row(self, task: Task) -> dict[str, Any]:
        """The initial statistics of a shard, before `make`."""
        row: dict[str, Any] = {"job": task.job, "shard": task.shard, "retries": 0, "rows": 0, "note": ""}
        row |= {"error": "", "final": False, "damaged": ""}
        return row | {f"seconds_{phase}": 0.0 for phase in self.phases}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        task = Task(int(batch["job"][0]), int(batch["shard"][0]))
        row = self.new_row(task)
        try:
            # If an actor dies, Ray makes its whole block again.
            if batch.get("several", (False,))[0] and (output := self.output(task)).has(task.shard):
                row["rows"] = output.size(task.shard)
            else:
                self.make(task, row)
        except Damaged as damage:
            found = json.dumps([damage.keys, damage.also])
            row |= {"error": damage.reason, "damaged": found, "final": self.loading and not self.loaded}
        except UserError as error:
            row |= {"error": str(error), "final": True}
        except Exception as error:  # one failed shard does not stop the others; the driver reports it at the end
            row["error"] = one_line(error)
        count_shard(self.stage, self.phases, row)
        return {name: np.array([value]) for name, value in row.items()}


def run_shards(
    audit: "Audit",
    actor: type[ShardActor],
    jobs: Sequence[ShardJob],
    spec: Callable[[], Any],
    title: str,
    unit: str = "samples",
) -> None:
    """Make the missing shards of all jobs with a pool of `actor`s; does nothing if none is missing.

    The order is by shard index, then by job, so that an interrupted run has the same samples of every condition. If an actor or
    a node dies, another actor makes its shards. If a shard fails, the others still finish. A failure that every shard would
    have (a full disk, a wrong access key) stops the stage at once.

    Args:
        spec: returns the argument of the actors' constructor; called after Ray has started. Small and picklable: paths, no data.
        title: name of the stage in messages.
        unit: what a row of a shard is, for messages.

    Raises:
        Damaged: files that are read are damaged.
        RunError: some shards failed. The message names them; all others are written.
    """
    tasks = pending(jobs)
    total = sum(job.rows(range(job.shards)) for job in jobs)
    if not tasks:
        audit.reporter.say(f"{title}: {total:,} {unit} exist already")
        return
    left = sum(jobs[task.job].rows([task.shard]) for task in tasks)
    cluster = audit.config.cluster
    ensure_ray(cluster)
    gpus = cluster.gpus if actor.uses_gpu(audit.config) else 0
    if waiting := check_room(cluster, "actor_cpus", gpus, min(cluster.actors[0], len(tasks)), "actors"):
        audit.reporter.warn(waiting)
    with audit.reporter.bar(title, total, unit, done=total - left) as bar:
        outcome = run_tasks(actor, spec(), tasks, audit.config, bar)
    for note in sorted(outcome.notes):
        audit.reporter.warn(note)
    _settle(title, [job.output for job in jobs], outcome)


def pending(jobs: Sequence[ShardJob]) -> list[Task]:
    """The missing shards of all jobs, by shard index, then by job. Each job's output is listed once."""
    missing = [job.output.missing(job.shards) for job in jobs]
    return sorted((Task(j, s) for j, left in enumerate(missing) for s in left), key=lambda task: task[::-1])


def run_tasks(actor: type[ShardActor], spec: Any, tasks: Sequence[Task], config: Config, bar: Bar) -> Outcome:
    """Run all tasks on a pool of `actor`s constructed with `spec`; `bar` advances by the rows of each finished shard.

    Raises:
        Damaged: files that every shard needs are damaged.
        RunError: Ray stopped, or a failure that every shard would have.
    """
    rows = _shown(_stream(actor, spec, tasks, config), actor.stage, bar) if tasks else ()
    return collect(rows, actor.phases, bar)


def _shown(rows: Iterable[dict[str, Any]], stage: str, bar: Bar) -> Iterator[dict[str, Any]]:
    """The rows, with the bar's progress shown on Ray's metrics endpoint."""
    show_progress(stage, bar.done, bar.total)
    for row in rows:
        yield row
        show_progress(stage, bar.done, bar.total)


def collect(rows: Iterable[dict[str, Any]], phases: Sequence[str], bar: Bar) -> Outcome:
    """The outcome of a stage from the statistics of its shards, see `ShardActor.new_row`. Raises what `run_tasks` does."""
    outcome = Outcome()
    for row in rows:
        task = Task(row["job"], row["shard"])
        if row["damaged"]:
            keys, also = json.loads(row["damaged"])
            outcome.damages.append(Damaged(keys, row["error"], also))
            if row["final"]:
                raise outcome.damages[-1]
        elif row["final"]:
            raise RunError(f"{row['error']}; finished shards are kept: run the same command again to resume")
        elif row["error"]:
            outcome.failures[task] = row["error"]
        else:
            outcome.finished += 1
            bar.advance(row["rows"], row["retries"])
        if row["note"]:
            outcome.notes.add(row["note"])
        for phase in phases:
            outcome.seconds[phase] = outcome.seconds.get(phase, 0.0) + row[f"seconds_{phase}"]
    return outcome


def _settle(title: str, outputs: Sequence[ShardSet], outcome: Outcome) -> None:
    """Record failed shards for `status`, and raise if there are failures or damaged inputs."""
    for number, shards in enumerate(outputs):
        shards.record_failures({task.shard: why for task, why in outcome.failures.items() if task.job == number})
    if outcome.damages:
        raise joined(outcome.damages)
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


def block_sizes(count: int, actors: int) -> list[int]:
    """How many of `count` shards each block holds, in order.

    Towards the end, blocks are smaller (guided self-scheduling, Polychronopoulos and Kuck, 1987), so that all actors end at
    about the same time. The last are single shards.
    """
    most, left, sizes = -(-count // MOST_BLOCKS), count, list[int]()
    while left:
        sizes.append(max(1, min(most, left // (2 * IN_FLIGHT * actors))))
        left -= sizes[-1]
    return sizes


def _stream(actor: type[ShardActor], spec: Any, tasks: Sequence[Task], config: Config) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray.exceptions import RayError

    cluster = config.cluster
    sizes = block_sizes(len(tasks), cluster.actors[1])
    columns = {"job": [task.job for task in tasks], "shard": [task.shard for task in tasks]}
    table = pa.table({**columns, "several": [size > 1 for size in sizes for _ in range(size)]})
    blocks = [table.slice(end - size, size) for end, size in zip(accumulate(sizes), sizes, strict=True)]
    least, most = min(cluster.actors[0], len(tasks)), min(cluster.actors[1], len(tasks))
    # Not `from_arrow`, which runs one task on each block first, in workers that import Ray Data for it.
    dataset = ray.data.from_blocks(blocks).map_batches(
        actor,
        fn_constructor_args=(spec,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            initial_size=most,
            max_tasks_in_flight_per_actor=IN_FLIGHT,
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
