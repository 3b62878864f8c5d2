import json
import os
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from side_ray.execution.node import lease as leases
from side_ray.execution.node.lease import LEASE, Lease
from side_ray.execution.progress import Reporter
from side_ray.runs.run import Artifact
from side_ray.storage import open_store


@pytest.fixture
def artifact(tmp_path):
    return Artifact(open_store(str(tmp_path)), "dpm/ab")


@pytest.fixture
def reporter():
    return Reporter(Console(record=True, file=open(os.devnull, "w")))


def another_process(artifact: Artifact, reporter: Reporter, **changes) -> dict:
    """A lease whose owner is a process that lives until its stdin is closed."""
    Lease(artifact).wait_for(reporter, "train")
    words = artifact.read_json(LEASE) | changes
    artifact.store.write(f"{artifact.key}/{LEASE}", json.dumps(words).encode())
    return words


def test_the_first_one_gets_it_and_keeps_it(artifact, reporter):
    Lease(artifact).wait_for(reporter, "train")
    Lease(artifact).wait_for(reporter, "train")  # the same process
    assert artifact.read_json(LEASE)["pid"] == os.getpid()


def test_the_lease_of_a_dead_driver_on_this_machine_expires_at_once(artifact, reporter):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    another_process(artifact, reporter, pid=gone.pid, started="1")
    Lease(artifact).wait_for(reporter, "train")
    assert artifact.read_json(LEASE)["pid"] == os.getpid()


def test_waits_for_a_live_driver_until_its_artifact_is_complete(artifact, reporter):
    with subprocess.Popen(["sleep", "60"]) as other:
        another_process(artifact, reporter, pid=other.pid, started=leases.start_time(other.pid))
        waiting = threading.Thread(target=Lease(artifact).wait_for, args=(reporter, "train"))
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
        artifact.finish()
        waiting.join(5)
        assert not waiting.is_alive()
        assert "another driver is working on it" in reporter.console.export_text()
        other.kill()


def test_the_lease_of_a_silent_driver_on_another_machine_expires(artifact, reporter):
    another_process(artifact, reporter, machine="elsewhere", at=time.time() - leases.STALE_AFTER_S - 1)
    Lease(artifact).wait_for(reporter, "train")
    assert artifact.read_json(LEASE)["machine"] != "elsewhere"


def test_a_living_driver_of_another_machine_keeps_it(artifact, reporter):
    another_process(artifact, reporter, machine="elsewhere", at=time.time())
    assert not Lease(artifact)._take()
