"""Repair of damaged files: delete them and make them again."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from side_ray.errors import Damaged, RunError
from side_ray.storage import Store

MOST_REPAIRS = 3
"""Repairs of one file."""

Result = TypeVar("Result")


def repairing(store: Store, work: Callable[[], Result], remake: Callable[[Damaged], object]) -> Result:
    """Call `work`. If it finds damaged files, delete them, call `remake`, and call `work` again.

    Args:
        remake: prepares that `work` makes them again, or says so.

    Raises:
        RunError: a file was damaged again after `MOST_REPAIRS` repairs: the store loses data.
    """
    repaired: Counter[str] = Counter()
    while True:
        try:
            return work()
        except Damaged as damage:
            if repaired[damage.keys[0]] == MOST_REPAIRS:
                raise RunError(
                    f"{damage}, after {MOST_REPAIRS} repairs: check the storage that holds the run"
                ) from damage
            repaired[damage.keys[0]] += 1
            for key in damage.doomed:
                store.delete(key)
            remake(damage)
