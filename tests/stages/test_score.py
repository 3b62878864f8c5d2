"""Scores do not depend on the actors that compute them, also if actors are killed, for all kinds of bands."""

import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from side_ray.algorithm import run_until
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from tests.audits import tiny_config
from tests.bruteforce import check

pytestmark = pytest.mark.usefixtures("undrawn")


def tables(root: Path) -> dict[str, object]:
    """Every file of scores and hits, by its path without the fingerprint."""
    found = {}
    for path in sorted([*(root / "scores").rglob("*.parquet"), *(root / "hits").rglob("*.parquet")]):
        kind, _, *rest = path.relative_to(root).parts
        name = "/".join([kind, *rest])
        found[name] = pq.read_table(path, partitioning=None).replace_schema_metadata(None)
    return found


def copy_without_scores(source: str, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("scores", "hits", "report"))


@pytest.mark.slow
def test_killing_scoring_actors_changes_nothing(tiny_audit, tmp_path, ray_session):
    run = tmp_path / "run"
    copy_without_scores(tiny_audit.run.store.uri, run)
    stop, killed = threading.Event(), []

    def killer() -> None:
        generator = np.random.default_rng(0)
        while not stop.wait(0.4) and len(killed) < 6:
            titles = {
                process.pid: " ".join(process.cmdline()[:1]) for process in psutil.process_iter() if _ours(process)
            }
            scoring = [pid for pid, title in titles.items() if "SearchPart" in title or "Scorer" in title]
            if scoring:
                pid = int(generator.choice(scoring))
                killed.append(titles[pid])
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        artifacts = run_until("report", tiny_config(run), Reporter()).artifacts
    finally:
        stop.set()
        thread.join()
    assert len(killed) >= 2, killed
    assert (
        artifacts.report.read_json("metrics.json")["conditions"]
        == tiny_audit.report.read_json("metrics.json")["conditions"]
    )
    ours, theirs = tables(run), tables(Path(tiny_audit.run.store.uri))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equals(theirs[name]) for name in theirs)


def _ours(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::")
    except psutil.Error:
        return False


@pytest.mark.slow
def test_bands_beyond_the_stored_neighbours_are_counted_over_the_whole_set(tiny_audit, tmp_path, ray_session):
    run = tmp_path / "run"
    copy_without_scores(tiny_audit.run.store.uri, run)
    artifacts = run_until("report", tiny_config(run, score__bands="paper"), Reporter()).artifacts
    assert check(run) == []
    low = artifacts.report.read_json("metrics.json")["conditions"][0]["bands"]["low"]
    assert low["ums_count"] > 50  # of 60 members: more than the stored neighbours


@pytest.mark.slow
def test_more_parts_than_the_default_give_the_same_scores(tiny_audit, tmp_path, ray_session):
    run = tmp_path / "run"
    copy_without_scores(tiny_audit.run.store.uri, run)
    with pytest.raises(UserError, match=r"60 actors .* this machine has") as caught:
        run_until("report", tiny_config(run, score__shards=60, cluster__memory_gb=1), Reporter())
    assert caught.value.key == "cluster.memory_gb"
    run_until("report", tiny_config(run, score__shards=5, cluster__memory_gb=1), Reporter())
    ours, theirs = tables(run), tables(Path(tiny_audit.run.store.uri))
    assert all(ours[name].equals(theirs[name]) for name in theirs)
