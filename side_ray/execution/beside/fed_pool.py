"""A pool of actors that is fed with shards as soon as what they are made of is written, while another stage runs.

What it does not make is left to the stage that makes these shards: that stage also raises what goes wrong here.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from side_ray.errors import one_line
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, pending
from side_ray.runs.shards import ShardSet

EVERY_S = 10.0
"""How often finished shards are looked for: a listing of each condition's samples."""
WAIT_S = 0.5
"""How often the room in the cluster is looked at, and whether to stop."""
MOST_FAILURES = 3
"""Failed shards after which no more are made beside the stage."""


class FedPool:
    """Makes the shards of `jobs` in a thread; those of `sources[j]` with the same index have to be there for job j.

    Args:
        spec: the argument of the actors' constructor.
        room: how many actors there may be now. Surplus ones are ended at once, so that they keep nobody waiting.
        cpus: of an actor.
        every: seconds between two looks for finished shards.
    """

    def __init__(
        self,
        actor: type[ShardActor],
        spec: Any,
        jobs: Sequence[ShardJob],
        sources: Sequence[ShardSet],
        room: Callable[[], int],
        cpus: int,
        every: float = EVERY_S,
    ) -> None:
        self.actor, self.spec, self.jobs, self.sources = actor, spec, jobs, sources
        self.room, self.cpus, self.every = room, cpus, every
        self.made, self.failed, self.trouble = 0, 0, ""
        self._left = dict.fromkeys(pending(jobs))
        self._sources = {source.directory: source for source in sources}
        self._found: list[Task] = []
        self._next_look = 0.0
        self._ended, self._killed = threading.Event(), threading.Event()
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        """By the reference of the answer that is awaited, the actor; the first answer of an actor says that it has started."""
        self._starting: set[Any] = set()

    @contextmanager
    def running(self) -> Iterator["FedPool"]:
        """Make shards while the block runs. At its end, shards under way are finished; if it raises, all actors are killed."""
        thread = threading.Thread(target=self._run, daemon=True, name="fed pool")
        thread.start()
        try:
            yield self
        except BaseException:
            self._killed.set()
            raise
        finally:
            self._ended.set()
            thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.is_set() and self.failed < MOST_FAILURES and self._left:
                self._resize(self._ready())
                self._collect()
            for reference in self._starting & self._busy.keys():
                self._kill(self._busy.pop(reference))
            while self._busy and not self._killed.is_set():
                self._resize([])
                self._collect()
        except Exception as error:  # the stage that makes these shards meets it again, or makes them all
            self.trouble = one_line(error)
        finally:
            for each in (*self._idle, *self._busy.values()):
                self._kill(each)

    def _kill(self, actor: Any) -> None:
        import ray

        with suppress(Exception):  # Ray may have been stopped
            ray.kill(actor)

    def _ready(self) -> list[Task]:
        """The tasks left of which the source was there at the last look, the first one last."""
        now = time.monotonic()
        if now >= self._next_look:
            present = {directory: source.present() for directory, source in self._sources.items()}
            found = [task for task in self._left if task.shard in present[self.sources[task.job].directory]]
            self._found = found[::-1]
            self._next_look = now + self.every
        return self._found

    def _resize(self, ready: list[Task]) -> None:
        """Start or end actors, and give each that is idle a task."""
        import ray

        room = self.room()
        while len(self._idle) + len(self._busy) > room:
            self._kill(self._idle.pop() if self._idle else self._busy.pop(next(reversed(self._busy))))
        while len(self._idle) + len(self._busy) < min(room, len(ready)):
            started = ray.remote(self.actor).options(num_cpus=self.cpus, num_gpus=0).remote(self.spec)
            reference = started.__ray_ready__.remote()
            self._busy[reference] = started
            self._starting.add(reference)
        while ready and self._idle:
            task, actor = ready.pop(), self._idle.pop()
            batch = {"job": np.array([task.job]), "shard": np.array([task.shard])}
            del self._left[task]
            self._busy[actor.__call__.remote(batch)] = actor

    def _collect(self) -> None:
        """Wait for answers, for a short time."""
        import ray

        if not self._busy:
            self._ended.wait(WAIT_S)
            return
        done, _ = ray.wait(list(self._busy), timeout=WAIT_S)
        for reference in done:
            actor = self._busy.pop(reference)
            try:
                row = ray.get(reference)
            except Exception as error:  # the actor died
                self.failed, self.trouble = self.failed + 1, one_line(error)
                continue
            self._idle.append(actor)
            if reference in self._starting:
                self._starting.discard(reference)
            elif reason := str(row["error"][0]):
                self.failed, self.trouble = self.failed + 1, reason
            else:
                self.made += 1
