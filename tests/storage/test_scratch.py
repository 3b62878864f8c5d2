"""Temporary directories are private, and what killed processes leave is removed."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from side_ray.errors import RunError
from side_ray.storage.scratch import private_directory, scratch

HOLD = """
import sys, time
from side_ray.storage.scratch import scratch
with scratch() as directory:
    (directory / "weights").write_bytes(b"x")
    print(directory, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def test_a_directory_is_private_and_gone_afterwards(temporary):
    with scratch() as directory, scratch() as other:
        (directory / "x").write_bytes(b"x")
        assert directory != other
        assert private_directory().stat().st_mode & 0o777 == 0o700
    assert not [path for path in temporary.rglob("*") if path.is_file()]
    assert not directory.exists()


def test_a_directory_that_is_open_to_others_is_refused_in_one_line(temporary):
    private_directory().chmod(0o755)
    with pytest.raises(RunError, match="set TMPDIR to another directory"), scratch():
        pass


@pytest.mark.long
def test_the_directory_of_a_killed_process_is_removed_by_the_next(temporary):
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        left = process.stdout.readline().strip()
        with scratch():
            assert os.path.exists(f"{left}/weights")  # its owner lives
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert os.path.exists(left)
    with scratch():
        assert not os.path.exists(left)
