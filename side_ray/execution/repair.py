"""Repair of damaged shards: what made them makes them again."""

from collections.abc import Callable
from typing import TypeVar

from side_ray.errors import RunError
from side_ray.runs.shards import DamagedShard
from side_ray.storage import Store

MOST_REPAIRS = 5

Result = TypeVar("Result")


def repairing(store: Store, work: Callable[[], Result], remake: Callable[[DamagedShard], object]) -> Result:
    """Do `work`; where it meets a damaged shard, delete that shard, call `remake`, and do the work again.

    Args:
        remake: makes again what the deleted shard was made by; it is told which shard was damaged.

    Raises:
        RunError: shards are damaged again and again, as by a store that does not keep what it is given.
    """
    damaged = ""
    for _ in range(MOST_REPAIRS):
        try:
            return work()
        except DamagedShard as damage:
            damaged = str(damage)
            store.delete(damage.key)
            remake(damage)
    raise RunError(f"{damaged}, after {MOST_REPAIRS} repairs: check the store that the run is in")
