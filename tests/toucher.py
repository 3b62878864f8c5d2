"""An actor for tests of the shard pool, in a module that Ray's workers can import."""

import os
from pathlib import Path

from side_ray.config import Config
from side_ray.errors import Damaged, RunError
from side_ray.execution.shard_pool import ShardActor, Task


class Touched:
    """Stands for the shards that a `Toucher` makes."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def has(self, shard: int) -> bool:
        path = self.directory / str(shard)
        return path.exists() and path.stat().st_size > 0

    def size(self, shard: int) -> int:
        return 1


class Toucher(ShardActor):
    """Creates one file per task, and fails as specified."""

    stage = "touch"
    phases = ("touch",)

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return False

    def __init__(self, spec: dict) -> None:
        self.spec = spec

    def output(self, task: Task) -> Touched:
        return Touched(self.spec["directory"])

    def make(self, task: Task, row: dict) -> None:
        if task.shard == self.spec.get("poisoned"):
            raise ValueError("poison\nwith more lines")
        if task.shard == self.spec.get("full"):
            raise RunError("/disk: no space left; free some")
        if task.shard == self.spec.get("damaged"):
            raise Damaged(["samples/part-000007.parquet"], "cannot be read")
        mark = Path(self.spec["directory"]) / f"died-{task.shard}"
        if task.shard == self.spec.get("deadly") and not mark.exists():
            mark.touch()
            os._exit(1)
        with open(Path(self.spec["directory"]) / str(task.shard), "a") as file:
            file.write("made\n")
        row |= {"rows": 1, "retries": 2, "seconds_touch": 0.5}
