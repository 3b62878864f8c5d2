"""Scoring beside sampling writes the same files as scoring after it; in this process, with stand-ins for Ray's actors."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from side_ray.errors import RunError
from side_ray.execution.beside import fed_pool
from side_ray.stages import extract as extracting
from side_ray.stages import score as scoring
from tests.local import audit_here, sent


@pytest.fixture
def actors(monkeypatch):
    """Actors that compute in the thread that calls them."""
    answers, number = {}, itertools.count()

    def answer(value):
        answers[key := next(number)] = value
        return key

    def start(actor, spec):
        made = actor(sent(spec))
        call = SimpleNamespace(remote=lambda batch: answer(made(batch)))
        return SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: answer(True)), __call__=call)

    def remote(actor):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda spec: start(actor, spec)))

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references, []))
    monkeypatch.setattr(ray, "get", answers.__getitem__)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(scoring, "alive_nodes", lambda: [{"CPU": 8}])


@pytest.fixture
def pools(monkeypatch):
    """The pools that ran; sampling ends only when they have made or given up a shard."""
    found = []

    class Kept(fed_pool.FedPool):
        def __init__(self, *given):
            super().__init__(*given, every=0.05)
            found.append(self)

    sampled = extracting.run_sampling

    def patient(*given):
        sampled(*given)
        for _ in range(600):
            if given[2] != "extract" or not found or found[-1].made or found[-1].failed or found[-1].trouble:
                return
            fed_pool.time.sleep(0.05)

    monkeypatch.setattr(scoring, "FedPool", Kept)
    monkeypatch.setattr(extracting, "run_sampling", patient)
    return found


def contents(root: Path) -> dict[str, bytes]:
    """Every table of what is sampled and scored."""
    files = [path for kind in ("scores", "hits", "strata", "samples") for path in (root / kind).rglob("*.parquet")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("broken", [False, True])
def test_both_orders_write_the_same_bytes(tmp_path, local_audit, actors, pools, monkeypatch, broken):
    if broken:
        make, fails = scoring.Scorer.make, iter([True])

        def failing(self, task, row):
            if pools and next(fails, False):
                raise ValueError("out of memory")
            make(self, task, row)

        monkeypatch.setattr(scoring.Scorer, "make", failing)
    found = audit_here(tmp_path / "run", cluster__overlap=True)
    assert len(pools) == 1
    assert pools[0].failed == broken
    assert broken or pools[0].made >= 1
    assert pools[0].trouble == ("ValueError: out of memory" if broken else "")
    theirs = contents(Path(local_audit.run.store.uri))
    assert any(name.startswith("hits") for name in theirs)
    assert contents(tmp_path / "run") == theirs
    conditions = [each.report.read_json("metrics.json")["conditions"] for each in (found, local_audit)]
    assert conditions[0] == conditions[1]


def test_scoring_that_cannot_be_prepared_does_not_stop_sampling(tmp_path, actors, pools, monkeypatch):
    def broken(*_):
        raise RunError("the disk is full")

    monkeypatch.setattr(scoring, "learn_strata", broken)
    with pytest.raises(RunError, match="the disk is full"):
        audit_here(tmp_path / "run", cluster__overlap=True)
    assert not pools
    assert list((tmp_path / "run" / "samples").rglob("part-*.parquet"))
