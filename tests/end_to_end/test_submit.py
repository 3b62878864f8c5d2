"""`side-ray submit` and `stop` on a real cluster of three nodes."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.audits import PAGE_ONLY, ROOT
from tests.bruteforce import check
from tests.end_to_end.test_jobs import wait_for
from tests.nodes import Nodes, ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[Nodes]:
    directory = tmp_path_factory.mktemp("cluster")
    # A cluster has a side-ray of its own. Here it is a broken one, so that only the one that a job brings works.
    (directory / "side_ray").mkdir()
    (directory / "side_ray" / "__init__.py").write_text("raise ImportError('this is the side-ray of the cluster')")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with ray_nodes(directory, 3, 4, with_dashboard=True, PYTHONPATH=str(directory), PATH=path) as nodes:
        wait_for(lambda: answers(nodes.dashboard), 120)
        yield nodes


def answers(port: int | None) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port or 0), 1):
        return True
    return False


def side_ray(nodes: Nodes, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "side_ray.cli", *arguments, "--address", f"http://127.0.0.1:{nodes.dashboard}"]
    env = {**nodes.env, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, cwd=ROOT)


def overrides(run: Path, *more: str) -> list[str]:
    return ["jobs/configs/digits_tiny.yaml", f"run.uri={run}", "cluster.actors=[2,3]", *PAGE_ONLY, *more]


def test_a_job_is_followed_to_its_end(nodes, tmp_path):
    result = side_ray(nodes, "submit", *overrides(tmp_path / "run"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("verdict: ") == result.stdout.count("report done in") == 1
    assert check(tmp_path / "run") == []

    (job,) = set(re.findall(r"--attach (\S+)", result.stderr))
    again = side_ray(nodes, "submit", "--attach", job)
    assert (again.returncode, again.stdout) == (0, result.stdout)


def test_a_batch_is_submitted_like_an_audit(nodes, tmp_path):
    _, *settings = overrides(tmp_path / "run", "extract.methods=[random]")
    audits = tmp_path / "audits.yaml"
    audits.write_text(f"{{base: {ROOT}/jobs/configs/digits_tiny.yaml, models: {{one: [dpm.kind=optimal]}}}}")
    result = side_ray(nodes, "submit", str(audits), *settings, "--verb", "batch", "--fail-worse", "--attach-running")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"summary: {tmp_path}/run/batch/index.html" in result.stdout
    assert check(tmp_path / "run") == []


def test_a_stopped_job_resumes_when_it_is_submitted_again(nodes, tmp_path):
    run = tmp_path / "run"
    given = overrides(run, "dpm.kind=optimal", "extract.methods=[random]", "extract.samples=2000", "extract.steps=40")
    (job,) = set(re.findall(r"--attach (\S+)", side_ray(nodes, "submit", *given, "--no-wait").stderr))
    wait_for(lambda: len(list((run / "samples").rglob("part-*.parquet"))) > 1, 200)
    second = side_ray(nodes, "submit", *given)
    assert second.returncode == 2
    assert f"{job} is already running on {run}" in second.stderr
    stopped = side_ray(nodes, "stop", job)
    assert (stopped.returncode, stopped.stdout) == (
        0,
        f"{job} has stopped; finished work is kept: submit it again to resume\n",
    )
    shards = {path: path.stat().st_mtime_ns for path in (run / "samples").rglob("part-*.parquet")}
    assert not (run / "report").exists()
    assert side_ray(nodes, "submit", "--attach", job).returncode == 1

    resumed = side_ray(nodes, "submit", *given)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert check(run) == []


def test_the_exit_code_of_the_audit_is_that_of_the_command(nodes, tmp_path):
    result = side_ray(nodes, "submit", *overrides(tmp_path / "run", "data.members=100000"))
    assert result.returncode == 2
    assert "data.members" in result.stdout
    assert "ended with exit code 2" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
