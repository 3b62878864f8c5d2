"""Maps a pool of actors over shards with Ray Data. What comes back to the driver is one row of statistics per shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from side_ray.config import ClusterSection
from side_ray.errors import RunError, UserError
from side_ray.execution.progress import Bar
from side_ray.runs.run import Artifact
from side_ray.runs.shards import FAILED, ShardSet

# Ray Data keeps bookkeeping per block: past this many shards a block holds several, still done one by one.
MOST_BLOCKS = 2000
MOST_NAMED = 5


@dataclass(frozen=True)
class Task:
    """One shard to make: `group` is the index of its condition in the actor's spec, `shard` its index within that."""

    group: int
    shard: int


@dataclass
class Outcome:
    """What became of a stage's tasks."""

    finished: int = 0
    failures: dict[Task, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)


class ShardActor:
    """Makes shards, one per call, for Ray Data's `map_batches`; a subclass says how.

    Two calls run at a time in one actor, so that one can encode and write while the other has the device.
    """

    stage: ClassVar[str]
    phases: ClassVar[tuple[str, ...]]

    def make(self, task: Task, row: dict[str, Any]) -> None:
        """Make and write one shard; note in `row` the seconds of each phase, retries, and what is unusual about it."""
        raise NotImplementedError

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        task = Task(int(batch["group"][0]), int(batch["shard"][0]))
        row: dict[str, Any] = {"group": task.group, "shard": task.shard, "retries": 0, "error": "", "note": ""}
        row |= {"final": False, "rows": 0} | {f"seconds_{phase}": 0.0 for phase in self.phases}
        try:
            self.make(task, row)
        except UserError as error:  # of the store, after its own retries: the next shard would meet it too
            row |= {"error": str(error), "final": True}
        except Exception as error:  # a failure stays with its shard; the driver names it when the others are done
            row["error"] = one_line(error)
        _count(self.stage, self.phases, row)
        return {name: np.array([value]) for name, value in row.items()}


def run_tasks(actor: type[ShardActor], spec: Any, tasks: Sequence[Task], cluster: ClusterSection, bar: Bar) -> Outcome:
    """Have every task done by a pool of `actor`s.

    An actor or node that dies has its tasks done again by another; an exception stays with its shard, so that the others
    finish; an error that every shard would meet (a full disk, a wrong key) ends the stage at once.

    Args:
        actor: constructed with `spec`.
        spec: small and picklable: paths, not data.
        tasks: what to do, in the order of preference.
        bar: advances by the rows of every finished shard.

    Raises:
        RunError: Ray or the store cannot go on at all.
    """
    outcome = Outcome()
    for row in _stream(actor, spec, tasks, cluster) if tasks else ():
        task = Task(row["group"], row["shard"])
        if row["final"]:
            raise RunError(f"{row['error']}; finished shards are kept, so run the same command again to go on")
        if row["error"]:
            outcome.failures[task] = row["error"]
        else:
            outcome.finished += 1
            bar.advance(row["rows"], row["retries"])
        if row["note"]:
            outcome.notes.add(row["note"])
        for phase in actor.phases:
            outcome.seconds[phase] = outcome.seconds.get(phase, 0.0) + row[f"seconds_{phase}"]
    return outcome


def report_failures(title: str, sets: Sequence[ShardSet], outcome: Outcome) -> None:
    """Leave the failed shards' names beside the finished ones, for `status`, and end the stage if there are any.

    Raises:
        RunError: names the failed shards.
    """
    for group, shards in enumerate(sets):
        reasons = {str(task.shard): reason for task, reason in outcome.failures.items() if task.group == group}
        beside = Artifact(shards.store, shards.directory)
        if reasons:
            beside.write_json(FAILED, reasons)
        elif shards.store.exists(f"{shards.directory}/{FAILED}"):
            shards.store.delete(f"{shards.directory}/{FAILED}")
    if outcome.failures:
        named = [
            f"{sets[t.group].key(t.shard)} ({reason})" for t, reason in list(outcome.failures.items())[:MOST_NAMED]
        ]
        more = f" and {len(outcome.failures) - MOST_NAMED} more" if len(outcome.failures) > MOST_NAMED else ""
        raise RunError(
            f"{title}: {len(outcome.failures)} shards failed: {'; '.join(named)}{more}. "
            "All others are kept; run the same command again to retry"
        )


def one_line(error: BaseException) -> str:
    """An error's type and message without the traceback that Ray puts into the message of a remote one."""
    cause = getattr(error, "cause", None) or error
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {text}"


def _stream(actor: type, spec: Any, tasks: Sequence[Task], cluster: ClusterSection) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray.exceptions import RayError

    table = pa.table({"group": [task.group for task in tasks], "shard": [task.shard for task in tasks]})
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
        num_gpus=float(cluster.gpus) or None,
    )
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        raise RunError(
            f"Ray gave up ({one_line(error)}); finished shards are kept, so run the same command again to go on"
        ) from error


_METRICS: dict[str, Any] = {}


def _count(stage: str, phases: tuple[str, ...], row: dict[str, Any]) -> None:
    """Add one shard to the counters that Ray's metrics endpoint serves to Prometheus."""
    import ray

    if not ray.is_initialized():
        return
    if not _METRICS:
        from ray.util.metrics import Counter

        _METRICS["samples"] = Counter("side_ray_samples", "Samples of finished shards", tag_keys=("stage",))
        _METRICS["shards"] = Counter("side_ray_shards", "Shards by outcome", tag_keys=("stage", "outcome"))
        _METRICS["retries"] = Counter("side_ray_retries", "Storage requests that were tried again", tag_keys=("stage",))
        _METRICS["seconds"] = Counter("side_ray_seconds", "Seconds by phase", tag_keys=("stage", "phase"))
    failed = bool(row["error"])
    _METRICS["shards"].inc(1, {"stage": stage, "outcome": "failed" if failed else "finished"})
    # Ray's counters refuse an increment of zero.
    if row["rows"] and not failed:
        _METRICS["samples"].inc(row["rows"], {"stage": stage})
    if row["retries"]:
        _METRICS["retries"].inc(row["retries"], {"stage": stage})
    for phase in phases:
        if row[f"seconds_{phase}"] > 0:
            _METRICS["seconds"].inc(row[f"seconds_{phase}"], {"stage": stage, "phase": phase})
