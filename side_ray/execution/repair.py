"""Makes damaged shards again."""

from collections.abc import Callable, Sequence

from side_ray.config import Config
from side_ray.errors import RunError
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.shards import DamagedShard

Stage = Callable[[Config, Artifacts, Reporter], None]


MOST_REPAIRS = 5


def run_repairing(stages: Sequence[Stage], config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Run the last of `stages`; where it finds a damaged shard, have the earlier ones make that again first.

    Raises:
        RunError: shards are damaged again and again, as by a store that does not keep what it is given.
    """
    damaged = ""
    for _ in range(MOST_REPAIRS):
        try:
            stages[-1](config, artifacts, reporter)
        except DamagedShard as damage:
            damaged = str(damage)
            reporter.warn(f"{damaged}: making it again")
            artifacts.run.store.delete(damage.key)
            for earlier in stages[:-1]:
                earlier(config, artifacts, reporter)
        else:
            return
    raise RunError(f"{damaged}, after {MOST_REPAIRS - 1} repairs: check the store that the run lies in")
