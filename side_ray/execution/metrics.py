"""Counters and gauges that Ray's metrics endpoint exports to Prometheus. Outside of Ray they do nothing."""

import sys
from typing import Any

_COUNTERS: dict[str, Any] = {}


def count_shard(stage: str, phases: tuple[str, ...], row: dict[str, Any]) -> None:
    """Add one finished or failed shard to the counters.

    Args:
        row: the statistics of the shard, see `shard_pool.ShardActor.new_row`.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    if not _COUNTERS:
        from ray.util.metrics import Counter

        _COUNTERS["samples"] = Counter("side_ray_samples", "Samples of finished shards", tag_keys=("stage",))
        _COUNTERS["shards"] = Counter("side_ray_shards", "Shards by outcome", tag_keys=("stage", "outcome"))
        _COUNTERS["retries"] = Counter("side_ray_retries", "Storage requests that were retried", tag_keys=("stage",))
        _COUNTERS["seconds"] = Counter("side_ray_seconds", "Seconds by phase", tag_keys=("stage", "phase"))
    failed = bool(row["error"])
    _COUNTERS["shards"].inc(1, {"stage": stage, "outcome": "failed" if failed else "finished"})
    # Ray's counters refuse an increment of zero.
    if row["rows"] and not failed:
        _COUNTERS["samples"].inc(row["rows"], {"stage": stage})
    if row["retries"]:
        _COUNTERS["retries"].inc(row["retries"], {"stage": stage})
    for phase in phases:
        if row[f"seconds_{phase}"] > 0:
            _COUNTERS["seconds"].inc(row[f"seconds_{phase}"], {"stage": stage, "phase": phase})


def gauges(prefix: str, about: dict[str, str], tags: tuple[str, ...]) -> dict[str, Any]:
    """A gauge `side_ray_<prefix>_<name>` for each name of `about` (name → description); empty outside of Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {}
    from ray.util.metrics import Gauge

    return {name: Gauge(f"side_ray_{prefix}_{name}", text, tag_keys=tags) for name, text in about.items()}
