"""SIGINT and SIGTERM at every step of a real audit: one line, nothing left behind, and the same results afterwards."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from side_ray.algorithm import ALGORITHM
from side_ray.execution.node.stopping import LINE
from side_ray.runs.artifacts import Artifacts
from tests.audits import tiny_config, tiny_values

STAGED = Path(__file__).with_name("staged.py")
CHANGES = {"control": {"members": 60}}
IN_RAY = {"train_dpm", "synthesize", "label", "train_surrogate", "extract", "score", "privacy", "control"}
DEADLINE_S = 10.0


class Command:
    """One command in a session and a temporary directory of its own."""

    def __init__(self, run: Path, temporary: Path) -> None:
        config = run.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(tiny_values(str(run), **CHANGES)))
        self.mark, self.temporary = uuid.uuid4().hex, temporary
        env = os.environ | {"TMPDIR": str(temporary), "SIDE_RAY_TEST": self.mark}
        env["PYTHONPATH"] = str(Path(__file__).parents[2])
        command = [sys.executable, str(STAGED), "audit", str(config)]
        with run.with_suffix(".err").open("w") as errors:
            self.process = subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        self.errors = Path(errors.name)

    def wait_for(self, line: str) -> None:
        assert self.process.stdout
        while (found := self.process.stdout.readline().strip()) != line:
            assert self.process.poll() is None, f"ended before {line!r}: {found} {self.errors.read_text()}"

    def stop(self, number: int, group: bool) -> None:
        """Send a signal to the process, or like a batch system to all that it has started, and check what remains."""
        began = time.monotonic()
        (os.killpg if group else os.kill)(self.process.pid, number)
        self.process.communicate(timeout=60)
        assert time.monotonic() - began < DEADLINE_S
        assert self.process.returncode == 128 + number
        said = self.errors.read_text()
        assert said.splitlines()[-1] == LINE
        assert said.count("stopped") == 1
        assert "Traceback" not in said
        assert "***" not in said  # a C++ stack trace
        self.left_nothing()

    def left_nothing(self) -> None:
        deadline = time.monotonic() + 5
        while (running := self.running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not running
        # torch makes an empty directory for its compiler, which it shares between processes.
        assert not [path for path in self.temporary.rglob("*") if not path.name.startswith("torchinductor")]

    def running(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SIDE_RAY_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def end(self) -> None:
        """End whatever a failed test has left."""
        for process in psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []:
            process.kill()
        self.process.kill()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory with a short path, which Ray's sockets need."""
    with tempfile.TemporaryDirectory(prefix="s", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def metrics(run: Path) -> list[dict]:
    found = Artifacts.open(tiny_config(run, **CHANGES)).report.read_json("metrics.json")
    return [found["conditions"], found["verdict"], found["control"]["conditions"], found["provenance"]["sha256"]]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_stopped_at_every_step_ends_as_if_undisturbed(tmp_path, temporary):
    run, delays = tmp_path / "run", random.Random(0)
    for place, step in enumerate(ALGORITHM):
        moments = [(f"{step.name} begins", 0.3), ("works" if step.name in IN_RAY else f"{step.name} begins", 1.5)]
        for turn, (line, most) in enumerate(moments):
            command = Command(run, temporary)
            try:
                command.wait_for(f"{step.name} begins")
                if line == "works":
                    command.wait_for(line)
                time.sleep(delays.uniform(0, most))
                command.stop([signal.SIGINT, signal.SIGTERM][(place + turn) % 2], group=bool(place // 2 % 2))
            finally:
                command.end()
    for name in ("run", "undisturbed"):
        command = Command(tmp_path / name, temporary)
        try:
            command.process.communicate(timeout=600)
            assert command.process.returncode == 0, command.errors.read_text()
            command.left_nothing()
        finally:
            command.end()
    assert metrics(run) == metrics(tmp_path / "undisturbed")
