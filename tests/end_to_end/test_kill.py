"""Kills the driver during training, sampling and scoring; re-running the command resumes, with the same results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import conditions
from side_ray.runs.run import read_progress
from tests.audits import tiny_config, tiny_values
from tests.bruteforce import check

PATIENCE_S = 600


@pytest.fixture
def command(tmp_path):
    config = tmp_path / "audit.yaml"
    config.write_text(yaml.safe_dump(tiny_values(str(tmp_path / "run"))))
    return [sys.executable, "-m", "side_ray.cli", "audit", str(config)]


def kill_when(command: list[str], reached) -> None:
    """Run the command and kill -9 it as soon as `reached()`."""
    with open(os.devnull, "w") as nowhere, subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as driver:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert driver.poll() is None, "the audit ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_three_times_ends_as_if_undisturbed(command, tmp_path, tiny_audit):
    run = tmp_path / "run"
    config = tiny_config(run)
    artifacts = Artifacts(config, type(tiny_audit.run)(_store(run)))

    kill_when(command, lambda: any((run / artifacts.dpm.key / "checkpoints").glob("step-*.pt")))
    assert not artifacts.dpm.done
    kill_when(command, lambda: any(len(artifacts.samples(each).present()) for each in conditions(config)))
    assert not all(artifacts.samples(each).missing(4) == [] for each in conditions(config))
    kill_when(command, lambda: len(artifacts.cut.present()) > 0)
    assert not artifacts.report.done
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 0, result.stderr

    for each in conditions(config):
        ours, theirs = (a.samples(each).read_first(4) for a in (artifacts, tiny_audit))
        assert ours.column("sample_id").to_pylist() == list(range(200))
        assert ours.equals(theirs), f"{each.name} differs from the undisturbed run"
        files = sorted(path.name for path in (run / artifacts.samples(each).directory).iterdir())
        assert files == [f"part-{i:06d}.parquet" for i in range(4)]
    assert check(run) == []
    assert _weights(run / artifacts.dpm.key) == _weights(Path(tiny_audit.run.store.uri) / tiny_audit.dpm.key)
    assert not read_progress(artifacts.dpm)


def _store(run: Path):
    from side_ray.storage import open_store

    return open_store(str(run))


def _weights(directory: Path) -> bytes:
    return (directory / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
