"""Maps a pool of actors over shards with Ray Data. What comes back to the driver is one row of statistics per shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from side_ray.config import ClusterSection
from side_ray.errors import RunError
from side_ray.stages.progress import Bar

# Ray Data keeps bookkeeping per block: past this many shards a block holds several, still done one by one.
MOST_BLOCKS = 2000


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
    notes: list[str] = field(default_factory=list)


def run_tasks(
    actor: type[Callable[[dict[str, Any]], Any]],
    spec: Any,
    tasks: Sequence[Task],
    cluster: ClusterSection,
    bar: Bar,
    units: int,
) -> Outcome:
    """Have every task done by a pool of `actor`s.

    An actor is called with one task and answers with one row: `error` (empty when the shard is written), `retries`,
    `note`, and `seconds_<phase>` columns. An actor or node that dies has its tasks done again by another; an exception
    stays with its shard, so that the others finish.

    Args:
        actor: class for Ray Data's `map_batches`, constructed with `spec`.
        spec: small and picklable: paths, not data.
        tasks: what to do, in the order of preference.
        units: what one finished task adds to `bar`.

    Raises:
        RunError: Ray cannot go on at all.
    """
    if not tasks:
        return Outcome()
    outcome = Outcome()
    for row in _stream(actor, spec, tasks, cluster):
        task = Task(row["group"], row["shard"])
        if row["error"]:
            outcome.failures[task] = row["error"]
        else:
            outcome.finished += 1
            bar.advance(units, row["retries"])
        if row["note"]:
            outcome.notes.append(row["note"])
        for name, value in row.items():
            if name.startswith("seconds_"):
                phase = name.removeprefix("seconds_")
                outcome.seconds[phase] = outcome.seconds.get(phase, 0.0) + value
    return outcome


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
        # Two calls at a time in one actor: while one encodes and writes, the other has the device.
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


def one_line(error: BaseException) -> str:
    """An error's type and message without the traceback that Ray puts into the message of a remote one."""
    cause = getattr(error, "cause", None) or error
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {text}"
