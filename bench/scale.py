"""An audit's sampling on up to 10,000 GPUs: the real planner, resume and shard logic, on simulated actors and storage.

    python -m bench.scale [--quick] [--rate 10] [--json FILE]

What is real: the plan (`conditions`, `Artifacts.samples`), what is missing (`pending`, from listings), its division into blocks
(`block_sizes`), the driver's work for each shard (`collect`), and the check that spares finished shards when a block is made
again (`ShardSet.has`). What is simulated, in virtual time: machines, their start, sampling, pre-emption, the storage's latency,
throttling and failures, and the loss of the driver. Ray's own work is not in it.
"""

import argparse
import heapq
import json
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil

from side_ray.config.file import load_config
from side_ray.execution.progress import Bar
from side_ray.execution.shard_pool import IN_FLIGHT, ShardJob, Task, block_sizes, collect, pending
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import conditions
from side_ray.storage.base import Entry

PAPER = 2_550_000
"""Samples of the paper's experiments."""
CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "digits.yaml"
PAGE = 1000
"""Objects that S3 names in one answer."""
PHASES = ("sample", "encode", "write")


@dataclass(frozen=True)
class World:
    """Times in seconds, rates per hour where so named. All but `driver_s`, which is measured, are assumptions."""

    actors: int
    rate: float = 10.0
    """Samples per second of a GPU."""
    spread: float = 0.05
    """Standard deviation of the logarithm of a shard's time."""
    start_s: float = 180.0
    """From a machine's first paid second until its actor has loaded the model."""
    replace_s: float = 120.0
    """From a pre-emption until there is another machine."""
    preempted: float = 0.05
    """Of machines, per hour."""
    driver_lost: float = 1 / 168
    """Of drivers, per hour; all actors then start again."""
    latency_s: float = 0.05
    """Of a request to storage."""
    failed: float = 0.002
    """Of puts, which are then repeated."""
    puts_per_s: float = 3500.0
    """Puts that S3 takes for one prefix; more are refused and repeated."""
    driver_s: float = 0.0
    """The driver's work for one shard."""
    price: float = 2.0
    """Of a GPU-hour, in dollars."""


class Objects:
    """A store that holds only names, and counts requests."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}
        self.lists = self.heads = 0

    def put(self, key: str) -> None:
        directory, _, name = key.rpartition("/")
        self.found.setdefault(directory, set()).add(name)

    def size(self, key: str) -> int | None:
        self.heads += 1
        directory, _, name = key.rpartition("/")
        return 1000 if name in self.found.get(directory, ()) else None

    def list(self, prefix: str) -> Iterator[Entry]:
        names = self.found.get(prefix, set())
        self.lists += max(1, -(-len(names) // PAGE))
        return (Entry(f"{prefix}/{name}", 1000, 0.0) for name in names)


def plan(samples: int, shard_size: int, store: Objects) -> list[ShardJob]:
    """The sampling jobs of an audit with about that many samples over all conditions."""
    config = load_config(
        CONFIG,
        [
            "run.uri=/nonexistent",
            f"extract.shard_size={shard_size}",
            f"extract.samples={shard_size}",
            f"surrogate.synthetic={10 * shard_size}",
        ],
    )
    many = conditions(config)
    shards = max(1, round(samples / len(many) / shard_size))
    sized = {**config.extract.model_dump(), "samples": shards * shard_size}
    config = config.model_copy(update={"extract": type(config.extract).model_validate(sized)})
    artifacts = Artifacts.open(config)
    return [
        ShardJob(replace(artifacts.samples(each), store=store), artifacts.sample_shards)  # type: ignore[arg-type]
        for each in many
    ]


@dataclass
class Actor:
    """A machine with one GPU, from its first paid second on."""

    paid_from: float
    dies: float
    blocks: deque[deque[Task]] = field(default_factory=deque)
    began: float = 0.0


@dataclass
class Pool:
    """One life of the driver: the actors and what they make, event by event. `now` is the virtual time."""

    world: World
    store: Objects
    jobs: list[ShardJob]
    now: float
    ends: float
    """When the driver is lost."""
    random: random.Random
    paid: float = 0.0
    useful: float = 0.0
    lost: float = 0.0
    preemptions: int = 0
    retries: int = 0
    throttled_until: float = 0.0

    def rows(self, tasks: list[Task]) -> Iterator[dict[str, Any]]:
        """The statistics of each shard that is made, as `ShardActor` returns them, until all are or the driver is lost."""
        sizes = block_sizes(len(tasks), self.world.actors)
        self.queue = deque(deque(tasks[end - size : end]) for end, size in zip(accumulate(sizes), sizes, strict=True))
        self.events: list[tuple[float, int, str, Actor]] = []
        self.count, self.idle = 0, list[Actor]()
        left = len(tasks)
        for _ in range(min(self.world.actors, len(self.queue))):
            self._launch(self.now)
        alive = {id(actor): actor for *_, actor in self.events}
        while left:
            at, _, kind, actor = heapq.heappop(self.events)
            if at >= self.ends:
                self.now = self.ends
                break
            self.now = at
            if kind == "launched":
                alive[id(actor)] = actor
                self._push(at + self.world.start_s, "ready", actor)
            elif kind == "ready":
                self._next(actor)
            elif kind == "made":
                task = actor.blocks[0].popleft()
                self.useful += at - actor.began
                left -= 1
                yield self._row(task)
                self._next(actor)
            else:
                self._lose(actor, at)
                self.paid += at - actor.paid_from
                del alive[id(actor)]
        for actor in alive.values():
            self.paid += self.now - actor.paid_from
            if actor.blocks and left:
                self.lost += max(0.0, self.now - actor.began)

    def _push(self, at: float, kind: str, actor: Actor) -> None:
        self.count += 1
        # A machine that is taken first does not come to it.
        heapq.heappush(self.events, (at, self.count, kind, actor) if at < actor.dies or kind == "launched" else
                       (actor.dies, self.count, "died", actor))  # fmt: skip

    def _launch(self, at: float) -> None:
        hours = self.random.expovariate(self.world.preempted) if self.world.preempted else math.inf
        self._push(at, "launched", Actor(at, at + 3600 * hours))

    def _next(self, actor: Actor) -> None:
        """Start the actor's next shard, or let it wait for one."""
        at = self.now
        while True:
            while actor.blocks and not actor.blocks[0]:
                actor.blocks.popleft()
            while self.queue and len(actor.blocks) < IN_FLIGHT:
                actor.blocks.append(self.queue.popleft())
            if not actor.blocks:
                self.idle.append(actor)
                return
            if not actor.blocks[0]:
                continue
            task = actor.blocks[0][0]
            if not (len(actor.blocks[0]) > 1 and self.jobs[task.job].output.has(task.shard)):
                break
            actor.blocks[0].popleft()
            at += self.world.latency_s
        job = self.jobs[task.job]
        actor.began = at
        seconds = job.output.rows / self.world.rate * self.random.lognormvariate(0, self.world.spread)
        self._push(at + seconds, "made", actor)

    def _lose(self, actor: Actor, at: float) -> None:
        """A machine is taken: its blocks go back to the front of the queue, and another machine is asked for."""
        self.preemptions += 1
        if actor in self.idle:
            self.idle.remove(actor)
        elif actor.blocks:
            self.lost += max(0.0, at - actor.began)
        self.queue.extendleft(block for block in reversed(actor.blocks) if block)
        while self.idle and self.queue:
            self._next(self.idle.pop())
        self._launch(at + self.world.replace_s)

    def _row(self, task: Task) -> dict[str, Any]:
        job, retries = self.jobs[task.job], 0
        # Puts take their turn at the rate that the storage allows; the sampling of the next shard does not wait for them.
        self.throttled_until = max(self.throttled_until, self.now) + 1 / self.world.puts_per_s
        retries += self.throttled_until - self.now > 1.0
        while self.random.random() < self.world.failed:
            retries += 1
        self.retries += retries
        job.output.store.put(job.output.key(task.shard))  # type: ignore[attr-defined]
        row = {
            "job": task.job,
            "shard": task.shard,
            "retries": retries,
            "rows": job.output.size(task.shard),
            "note": "",
        }
        return row | {"error": "", "final": False, "damaged": ""} | {f"seconds_{phase}": 1.0 for phase in PHASES}


def simulate(world: World, samples: int, shard_size: int, seed: int = 0) -> dict[str, Any]:
    """Sample until nothing is missing, through losses of the driver."""
    store, chance = Objects(), random.Random(seed)
    jobs = plan(samples, shard_size, store)
    shards = sum(job.shards for job in jobs)
    pool = Pool(world, store, jobs, 0.0, 0.0, chance)
    lives, most_lists, began = 0, 0.0, time.perf_counter()
    bar = Bar("extract", shards * shard_size, "samples", 0)
    while tasks := _listed(pool, shards):
        most_lists = max(most_lists, store.lists / max(1, shards / PAGE)) if lives else 0.0
        lives += 1
        hours = chance.expovariate(world.driver_lost) if world.driver_lost else math.inf
        pool.ends = pool.now + 3600 * hours
        outcome = collect(pool.rows(tasks), PHASES, bar)
        assert not outcome.failures
    assert bar.done == shards * shard_size, "a shard was lost or made twice"
    ideal = shards * shard_size / world.rate / world.actors
    # Exponential losses of the driver, each of which would begin the work anew.
    rate = world.driver_lost / 3600
    without = math.expm1(rate * pool.now) / rate if rate and rate * pool.now < 700 else math.inf if rate else pool.now
    return {
        "actors": world.actors,
        "samples": shards * shard_size,
        "conditions": len(jobs),
        "shards": shards,
        "hours": pool.now / 3600,
        "ideal_hours": ideal / 3600,
        "hours_without_resume": without / 3600,
        "utilisation": pool.useful / pool.paid,
        "lost_gpu_hours": pool.lost / 3600,
        "cost": pool.paid / 3600 * world.price,
        "preemptions": pool.preemptions,
        "driver_losses": lives - 1,
        "retries": pool.retries,
        "lists_per_1000_shards": most_lists,
        "heads": store.heads,
        "driver_busy": shards * world.driver_s / pool.now,
        "simulated_in_s": time.perf_counter() - began,
    }


def _listed(pool: Pool, shards: int) -> list[Task]:
    """What is missing, and the time that the listing takes."""
    pool.store.lists = 0
    tasks = pending(pool.jobs)
    pool.now += pool.store.lists * pool.world.latency_s
    return tasks


def driver(shards: int) -> dict[str, float]:
    """Seconds of the driver for each shard, and its memory: planning, then the statistics of every shard.

    Half of the shards exist, as on a resume.
    """
    store = Objects()
    jobs = plan(2 * shards * 100, 100, store)
    for job in jobs:
        for shard in range(0, job.shards, 2):
            store.put(job.output.key(shard))
    memory = psutil.Process().memory_info
    before, began = memory().rss, time.perf_counter()
    tasks = pending(jobs)
    sizes = block_sizes(len(tasks), 1000)
    planned, seconds = memory().rss, time.perf_counter() - began
    seen: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        common = {"retries": 0, "rows": 100, "note": "", "error": "", "final": False, "damaged": ""}
        common |= {f"seconds_{phase}": 1.0 for phase in PHASES}
        for number, task in enumerate(tasks):
            if number % (len(tasks) // 10 or 1) == 0:
                seen.append(memory().rss)
            yield {"job": task.job, "shard": task.shard, **common}

    began = time.perf_counter()
    outcome = collect(rows(), PHASES, Bar("extract", len(tasks) * 100, "samples", 0))
    seconds += time.perf_counter() - began
    assert outcome.finished == len(tasks)
    return {
        "shards": len(tasks),
        "blocks": len(sizes),
        "ms_per_shard": 1000 * seconds / len(tasks),
        "planned_bytes_per_shard": (planned - before) / len(tasks),
        "grown_mb": (seen[-1] - seen[1]) / 2**20,
        "lists_per_1000_shards": store.lists / sum(job.shards for job in jobs) * PAGE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the paper's samples only")
    parser.add_argument("--rate", type=float, default=10.0, help="samples per second of a GPU")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file")
    options = parser.parse_args()
    measured = driver(100_000 if options.quick else 1_000_000)
    print("driver:", ", ".join(f"{name} {value:,.4g}" for name, value in measured.items()))
    cases = [(PAPER, 250, actors) for actors in (8, 64, 256, 1000)]
    cases += [] if options.quick else [(10**9, 1000, actors) for actors in (1000, 10_000)]
    print("samples         GPUs   hours (ideal; without resume)   utilisation   lost GPU-h   cost $   driver busy")
    found = []
    for samples, shard_size, actors in cases:
        world = World(actors, options.rate, driver_s=measured["ms_per_shard"] / 1000)
        result = simulate(world, samples, shard_size)
        found.append({"world": asdict(world), **result})
        print(
            f"{result['samples']:13,} {actors:6,}   {result['hours']:.2f} ({result['ideal_hours']:.2f}; "
            f"{result['hours_without_resume']:,.2f})   {result['utilisation']:.1%}   {result['lost_gpu_hours']:.1f}   "
            f"{result['cost']:,.0f}   {result['driver_busy']:.2%}   [{result['simulated_in_s']:.0f} s]"
        )
    if options.json:
        Path(options.json).write_text(json.dumps({"driver": measured, "cases": found}, indent=1))


if __name__ == "__main__":
    main()
