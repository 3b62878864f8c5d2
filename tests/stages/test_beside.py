"""Scoring beside sampling writes the same files as scoring after it, also where it is stopped and goes on in the other order."""

import threading
from pathlib import Path

import pytest

from side_ray.algorithm import run_until
from side_ray.execution.audit import Audit
from side_ray.execution.beside import fed_pool
from side_ray.execution.progress import Reporter
from side_ray.execution.shard_pool import ShardJob
from side_ray.runs.shards import ShardSet
from side_ray.stages import extract as extracting
from side_ray.stages import score as scoring
from tests.audits import tiny_config
from tests.toucher import Toucher

SAMPLED = {"dpm__kind": "optimal", "extract__methods": ["random"], "score__shards": 1, "extract__shard_size": 10}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "ray_session")]


def contents(root: Path) -> dict[str, bytes]:
    """Every file of scores, hits, strata and features."""
    kinds = ("scores", "hits", "strata", "samples")
    files = [path for kind in kinds for path in (root / kind).rglob("*.parquet")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def beside(monkeypatch):
    """Sampling ends only once a shard was scored beside it; the pools that ran."""
    monkeypatch.setattr(fed_pool, "EVERY_S", 0.1)
    pools, sampled = [], extracting.run_sampling

    class Kept(fed_pool.FedPool):
        def __init__(self, *given):
            super().__init__(*given, every=0.1)
            pools.append(self)

    def slow(*given):
        sampled(*given)
        for _ in range(600):
            if not pools or pools[-1].made or pools[-1].failed:
                break
            threading.Event().wait(0.1)

    monkeypatch.setattr(scoring, "FedPool", Kept)
    monkeypatch.setattr(extracting, "run_sampling", slow)
    return pools


def run(root: Path, overlap: bool, last: str = "report"):
    return run_until(last, tiny_config(root, cluster__overlap=overlap, **SAMPLED), Reporter()).artifacts


def test_both_orders_write_the_same_bytes(tmp_path, beside, monkeypatch):
    one = run(tmp_path / "beside", True)
    assert len(beside) == 1
    assert beside[0].made >= 1
    assert beside[0].trouble == ""
    other = run(tmp_path / "after", False)
    assert len(beside) == 1
    assert contents(tmp_path / "beside") == contents(tmp_path / "after")
    found = [each.report.read_json("metrics.json") for each in (one, other)]
    assert found[0]["conditions"] == found[1]["conditions"]

    # Stopped while it scores beside sampling, and taken up in the other order.
    def stopped(*given):
        raise KeyboardInterrupt

    sampled = extracting.run_sampling
    monkeypatch.setattr(extracting, "run_sampling", lambda *given: (sampled(*given), stopped()))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", True)
    monkeypatch.setattr(extracting, "run_sampling", sampled)
    run(tmp_path / "stopped", False)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "after")


def test_what_fails_beside_is_left_to_the_stage_and_no_shard_is_made_before_its_source(tmp_path):
    store = Audit.open(tiny_config(tmp_path), Reporter()).run.store
    source, output = ShardSet(store, "source", "f", 1), ShardSet(store, "set", "f", 1)
    for shard in (0, 1, 2, 3):
        store.write(source.key(shard), b"0" * 99)
    spec, jobs = {"directory": str(tmp_path), "poisoned": 1, "deadly": 2}, [ShardJob(output, 6)]
    pool = fed_pool.FedPool(Toucher, spec, jobs, [source], lambda: 2, 1, every=0.1)
    with pool.running():
        for _ in range(600):
            if pool.made >= 2 and pool.failed >= 2:
                break
            threading.Event().wait(0.1)
    assert pool.trouble
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdecimal()) == ["0", "3"]
    assert (pool.made, pool.failed) == (2, 2)


def test_actors_without_room_are_ended_and_keep_nobody_waiting(tmp_path):
    store = Audit.open(tiny_config(tmp_path), Reporter()).run.store
    source, output = ShardSet(store, "source", "f", 1), ShardSet(store, "set", "f", 1)
    store.write(source.key(0), b"0" * 99)
    room = [0]
    pool = fed_pool.FedPool(Toucher, {"directory": str(tmp_path)}, [ShardJob(output, 2)], [source], lambda: room[0], 1)
    pool._resize(pool._ready())
    assert not pool._busy
    room[0] = 1
    pool._resize(pool._ready())
    assert len(pool._busy) == 1
    room[0] = 0
    pool._resize(pool._ready())
    assert not pool._busy
    assert not pool._idle
