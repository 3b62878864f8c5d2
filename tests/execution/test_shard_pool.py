"""A pool of real actors: one failed shard does not stop the others, a common failure ends the stage, dead actors are replaced."""

import math
from pathlib import Path

import numpy as np
import pytest

from side_ray.config import Config
from side_ray.errors import Damaged, RunError
from side_ray.execution import shard_pool
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Bar, Reporter
from side_ray.execution.shard_pool import IN_FLIGHT, ShardJob, Task, block_sizes, pending, run_shards, run_tasks
from side_ray.runs.shards import FAILED, ShardSet
from tests.audits import tiny_config
from tests.toucher import Toucher


def config_of(tmp_path: Path) -> Config:
    return tiny_config(tmp_path, cluster={"actors": [2, 2]})


def run(tmp_path: Path, count: int = 12, **spec):
    bar = Bar("touch", count, "shards", 0)
    tasks = [Task(0, i) for i in range(count)]
    return run_tasks(Toucher, {"directory": str(tmp_path), **spec}, tasks, config_of(tmp_path), bar), bar


def made(tmp_path: Path) -> list[int]:
    return sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal())


def test_a_poisoned_shard_is_named_and_a_dead_actor_replaced_while_the_others_finish(tmp_path, ray_session):
    outcome, bar = run(tmp_path, poisoned=5, deadly=8)
    assert (tmp_path / "died-8").exists()
    assert outcome.failures == {Task(0, 5): "ValueError: poison"}
    assert made(tmp_path) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert (bar.done, bar.retries, outcome.seconds) == (11, 22, {"touch": 5.5})


def test_failed_shards_are_recorded_until_they_are_made(tmp_path, ray_session):
    audit = Audit.open(config_of(tmp_path), Reporter())
    jobs = [ShardJob(ShardSet(audit.run.store, "set", "f", 1), 3)]

    def touch(**spec):
        run_shards(audit, Toucher, jobs, lambda: {"directory": str(tmp_path), **spec}, "touch")

    with pytest.raises(
        RunError, match=r"touch: 1 shards failed: set/part-000001\.parquet \(ValueError: poison\)"
    ) as caught:
        touch(poisoned=1)
    assert caught.value.exit_code == 1
    assert list(jobs[0].output.failures()) == [1]
    touch()
    assert not (tmp_path / "set" / FAILED).exists()


def test_a_damaged_input_is_reported_by_its_key(tmp_path, ray_session):
    audit = Audit.open(config_of(tmp_path), Reporter())
    jobs = [ShardJob(ShardSet(audit.run.store, "set", "f", 1), 3)]
    with pytest.raises(Damaged) as caught:
        run_shards(audit, Toucher, jobs, lambda: {"directory": str(tmp_path), "damaged": 2}, "touch")
    assert caught.value.keys == ["samples/part-000007.parquet"]
    assert made(tmp_path) == [0, 1]


def test_a_failure_common_to_all_shards_ends_the_stage(tmp_path, ray_session):
    with pytest.raises(RunError, match="no space left; free some; finished shards are kept"):
        run(tmp_path, count=300, full=3)
    assert len(made(tmp_path)) < 250


@pytest.mark.parametrize(("several", "times"), [(True, 1), (False, 2)])
def test_a_shard_of_several_in_a_block_is_made_once(several, times, tmp_path):
    actor = Toucher({"directory": str(tmp_path)})
    batch = {"job": np.array([0]), "shard": np.array([7]), "several": np.array([several])}
    rows = [actor(batch) for _ in range(2)]
    assert (tmp_path / "7").read_text() == "made\n" * times
    assert [row["rows"][0] for row in rows] == [1, 1]
    assert [row["error"][0] for row in rows] == ["", ""]


def test_finished_shards_of_a_block_are_not_made_again_when_its_actor_dies(tmp_path, ray_session, monkeypatch):
    monkeypatch.setattr(shard_pool, "MOST_BLOCKS", 3)
    monkeypatch.setattr(shard_pool, "IN_FLIGHT", 1)
    count = 40
    assert shard_pool.block_sizes(count, 2)[0] > 5
    outcome, bar = run(tmp_path, count, deadly=4)
    assert not outcome.failures
    assert bar.done == count
    assert [(tmp_path / str(shard)).read_text() for shard in range(count)] == ["made\n"] * count


@pytest.mark.parametrize(("count", "actors"), [(0, 1), (1, 1), (2000, 1000), (2001, 2), (10**6, 1000), (10**6, 10_000)])
def test_blocks_hold_every_shard_and_end_with_single_ones(count, actors):
    sizes = block_sizes(count, actors)
    assert sum(sizes) == count
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-actors:] == [1] * min(actors, count)
    assert count > 2000 or sizes == [1] * count
    # What Ray Data keeps state for.
    assert len(sizes) <= 2000 + 2 * IN_FLIGHT * actors * (1 + math.log(max(1, count / 2000)))


def test_the_missing_shards_of_all_jobs_are_ordered_by_index(tmp_path):
    store = Audit.open(config_of(tmp_path), Reporter()).run.store
    jobs = [ShardJob(ShardSet(store, f"set{number}", "f", 1), 3) for number in range(2)]
    store.write(jobs[0].output.key(1), b"0" * 99)
    assert pending(jobs) == [Task(0, 0), Task(1, 0), Task(1, 1), Task(0, 2), Task(1, 2)]


def test_no_task_starts_no_pool(tmp_path):
    outcome = run_tasks(Toucher, {}, [], tiny_config("/tmp/unused"), Bar("touch", 0, "shards", 0))
    assert outcome.finished == 0


def test_the_log_line_has_rate_eta_and_retries():
    bar = Bar("extract", 100, "samples", 20)
    bar.advance(20, retries=3)
    bar.update(40, 4.0, "loss 0.1")
    assert bar.describe() == "extract: 40/100 samples, 4.0/s, about 15 s left, loss 0.1, 3 retries"
