"""Counters and gauges that Ray's metrics endpoint exports to Prometheus. Outside of Ray they do nothing."""

import sys
from typing import Any

COUNTERS = {
    "samples": ("Samples of finished shards", ("stage",)),
    "shards": ("Shards by outcome", ("stage", "outcome")),
    "retries": ("Storage requests that were retried", ("stage",)),
    "seconds": ("Seconds by phase", ("stage", "phase")),
}
"""Description and tags of each counter `side_ray_<name>`."""
PROGRESS = {"done": "Finished samples of the stage", "total": "All samples of the stage"}
"""Gauges `side_ray_stage_<name>`, of the driver."""
_counters: dict[str, Any] = {}
_progress: dict[str, Any] = {}


def count_shard(stage: str, phases: tuple[str, ...], row: dict[str, Any]) -> None:
    """Add one finished or failed shard to the counters.

    Args:
        row: the statistics of the shard, see `shard_pool.ShardActor.new_row`.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    if not _counters:
        from ray.util.metrics import Counter

        _counters.update({name: Counter(f"side_ray_{name}", *each) for name, each in COUNTERS.items()})
    failed = bool(row["error"])
    _counters["shards"].inc(1, {"stage": stage, "outcome": "failed" if failed else "finished"})
    # Ray's counters refuse an increment of zero.
    if row["rows"] and not failed:
        _counters["samples"].inc(row["rows"], {"stage": stage})
    if row["retries"]:
        _counters["retries"].inc(row["retries"], {"stage": stage})
    for phase in phases:
        if row[f"seconds_{phase}"] > 0:
            _counters["seconds"].inc(row[f"seconds_{phase}"], {"stage": stage, "phase": phase})


def show_progress(stage: str, done: int, total: int) -> None:
    """Set the gauges of a stage's progress."""
    if not _progress:
        _progress.update(gauges("stage", PROGRESS, ("stage",)))
    for name, value in (("done", done), ("total", total)):
        if name in _progress:
            _progress[name].set(value, {"stage": stage})


def gauges(prefix: str, about: dict[str, str], tags: tuple[str, ...]) -> dict[str, Any]:
    """A gauge `side_ray_<prefix>_<name>` for each name of `about` (name → description); empty outside of Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {}
    from ray.util.metrics import Gauge

    return {name: Gauge(f"side_ray_{prefix}_{name}", text, tag_keys=tags) for name, text in about.items()}
