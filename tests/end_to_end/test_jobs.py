"""`ray job submit` to a real Ray head on this machine, as on a cluster."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.audits import tiny_values
from tests.bruteforce import check

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Environment variables to reach a Ray head with a dashboard; token authentication is on at both ends."""
    directory = tmp_path_factory.mktemp("ray")
    token = directory / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    dashboard = f"http://127.0.0.1:{(port := free_port())}"
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": dashboard,
        "PYTHONPATH": str(ROOT),
    }
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        "--num-cpus=8",
    ]
    command += [
        f"--port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
        f"--dashboard-port={port}",
        "--temp-dir=/tmp/ray-jobs-test",
        f"--object-store-memory={100 * 2**20}",
    ]
    start_env = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(command, env=start_env, stdout=log, stderr=log)
        try:
            wait_for(lambda: ray(env, "job", "list").returncode == 0, 120)
            yield env
        finally:
            # A signal to `ray start` alone makes it wait 30 s for its other processes.
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
            process.wait(60)


def ray(env: dict[str, str], *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RAY, *arguments], env=env, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def wait_for(reached, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.3)


def working_directory(tmp_path: Path, **changes) -> Path:
    """The working directory that a user submits: the jobs folder and a config."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copytree(ROOT / "jobs", work / "jobs")
    (work / "audit.yaml").write_text(yaml.safe_dump(tiny_values(str(tmp_path / "run"), dpm__kind="optimal", **changes)))
    return work


@pytest.mark.slow
def test_a_stopped_job_resumes_when_submitted_again(head, tmp_path):
    work = working_directory(tmp_path, extract__methods=["random"], extract__samples=1000, extract__steps=40)
    submit = ["job", "submit", "--working-dir", str(work)]
    entry = ["--", sys.executable, "jobs/audit.py", "--config", "audit.yaml"]
    wait_for(lambda: ray(head, *submit, "--no-wait", "--submission-id", "first", *entry).returncode == 0, 60)
    wait_for(lambda: len(list((tmp_path / "run" / "samples").rglob("part-*.parquet"))) > 1, 200)
    ray(head, "job", "stop", "first")
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "samples").rglob("part-*.parquet")}
    assert not (tmp_path / "run" / "report").exists()

    result = ray(head, *submit, *entry)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Calibrated cut" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert check(tmp_path / "run") == []


def test_a_users_mistake_is_reported_in_the_jobs_log(head, tmp_path):
    work = working_directory(tmp_path)
    result = ray(
        head,
        "job",
        "submit",
        "--working-dir",
        str(work),
        "--",
        sys.executable,
        "jobs/extract.py",
        "--config",
        "audit.yaml",
        "run.uri=runs/x",
    )
    assert result.returncode != 0
    assert "run.uri: 'runs/x' is relative" in result.stdout
    assert "Traceback" not in re.sub(r"(?s)ray\.exceptions.*", "", result.stdout)


def test_access_without_the_token_is_refused(head):
    stranger = {**head, "RAY_AUTH_TOKEN_PATH": "/nonexistent", "RAY_AUTH_MODE": "disabled"}
    result = ray(stranger, "job", "list")
    assert result.returncode != 0
    assert json.dumps("submission_id") not in result.stdout
