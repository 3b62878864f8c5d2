"""Repair of damaged shards: delete them and make them again."""

from collections.abc import Callable
from typing import TypeVar

from side_ray.errors import RunError
from side_ray.runs.shards import DamagedShard
from side_ray.storage import Store

MOST_REPAIRS = 5

Result = TypeVar("Result")


def repairing(store: Store, work: Callable[[], Result], remake: Callable[[DamagedShard], object]) -> Result:
    """Call `work`. If it finds a damaged shard, delete that shard, call `remake`, and call `work` again.

    Args:
        remake: makes the deleted shard again; its argument says which one.

    Raises:
        RunError: there was still a damaged shard after `MOST_REPAIRS` repairs: the store loses data.
    """
    damaged = ""
    for _ in range(MOST_REPAIRS):
        try:
            return work()
        except DamagedShard as damage:
            damaged = str(damage)
            store.delete(damage.key)
            remake(damage)
    raise RunError(f"{damaged}, after {MOST_REPAIRS} repairs: check the storage that holds the run")
