"""A pool of real actors: a poisoned shard stays alone, what every shard would meet ends the stage, a dead actor is replaced."""

from pathlib import Path

import pytest

from side_ray.config import ClusterSection
from side_ray.errors import RunError
from side_ray.execution.progress import Bar
from side_ray.execution.shard_pool import Task, report_failures, run_tasks
from side_ray.runs.shards import FAILED, ShardSet
from side_ray.storage import open_store
from tests.toucher import Toucher

CLUSTER = ClusterSection(actors=(2, 2))


def run(tmp_path: Path, count: int = 12, **spec):
    bar = Bar("touch", count, "shards", 0)
    outcome = run_tasks(Toucher, {"directory": str(tmp_path), **spec}, [Task(0, i) for i in range(count)], CLUSTER, bar)
    return outcome, bar


def made(tmp_path: Path) -> list[int]:
    return sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal())


def test_a_poisoned_shard_is_named_while_the_others_finish(tmp_path, ray_session):
    outcome, bar = run(tmp_path, poisoned=5)
    assert outcome.failures == {Task(0, 5): "ValueError: poison"}
    assert made(tmp_path) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert (bar.done, bar.retries, outcome.seconds) == (11, 22, {"touch": 5.5})

    shards = ShardSet(open_store(str(tmp_path)), "set", "f", 1)
    with pytest.raises(
        RunError, match=r"touch: 1 shards failed: set/part-000005\.parquet \(ValueError: poison\)"
    ) as caught:
        report_failures("touch", [shards], outcome)
    assert caught.value.exit_code == 1
    assert (tmp_path / "set" / FAILED).exists()
    outcome.failures.clear()
    report_failures("touch", [shards], outcome)
    assert not (tmp_path / "set" / FAILED).exists()


def test_what_every_shard_would_meet_ends_the_stage(tmp_path, ray_session):
    with pytest.raises(RunError, match="no space left; free some; finished shards are kept"):
        run(tmp_path, count=300, full=3)
    assert len(made(tmp_path)) < 250


def test_a_dead_actor_is_replaced_and_its_shard_made(tmp_path, ray_session):
    outcome, bar = run(tmp_path, deadly=4)
    assert made(tmp_path) == list(range(12))
    assert not outcome.failures
    assert bar.done == 12


def test_no_task_starts_no_pool(tmp_path):
    outcome = run_tasks(Toucher, {}, [], CLUSTER, Bar("touch", 0, "shards", 0))
    assert outcome.finished == 0


def test_the_log_line_tells_rate_eta_and_retries():
    bar = Bar("extract", 100, "samples", 20)
    bar.advance(20, retries=3)
    bar.reach(40, 4.0, "loss 0.1")
    assert bar.describe() == "extract: 40/100 samples, 4.0/s, about 15 s left, loss 0.1, 3 retries"
