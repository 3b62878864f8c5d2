"""One array for all processes of a node, made once, and made again when nobody has it any more."""

import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from side_ray.execution.node_memory import shared_array

SHAPE = 300, 5


def hold(directory: str, made: str, pipe: Connection) -> None:
    """Map the array, tell its sum, and keep it until killed."""
    tempfile.tempdir = directory

    def fill(array: np.ndarray) -> None:
        with Path(made).open("a") as file:
            file.write("made\n")
        time.sleep(0.3)  # the others come meanwhile
        array[:] = np.arange(array.size).reshape(array.shape)

    array = shared_array("key", SHAPE, fill)
    pipe.send(float(array.sum()))
    pipe.recv()


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a process that holds the array; returns it and what it sees."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    context, running = multiprocessing.get_context("spawn"), []

    def start(count: int) -> list[tuple[multiprocessing.Process, float]]:
        begun = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=hold, args=(str(tmp_path), str(tmp_path / "made"), theirs))
            process.start()
            running.append((process, ours))
            begun.append((process, ours))
        return [(process, pipe.recv()) for process, pipe in begun]

    yield start
    for process, _ in running:
        process.kill()
        process.join()


def makings(tmp_path: Path) -> int:
    return len((tmp_path / "made").read_text().splitlines())


def test_three_processes_hold_what_one_of_them_made(start, tmp_path):
    found = start(3)
    assert [value for _, value in found] == [np.arange(1500).sum()] * 3
    assert makings(tmp_path) == 1
    # A file that several processes map has one inode.
    maps = [Path(f"/proc/{process.pid}/maps").read_text().splitlines() for process, _ in found]
    mapped = [{line.split()[4] for line in lines if f"/side-ray-{os.getuid()}/" in line} for lines in maps]
    assert len(mapped[0]) == 1
    assert mapped == [mapped[0]] * 3


def test_it_outlives_its_maker_and_is_made_anew_when_the_last_is_gone(start, tmp_path):
    [(maker, _)] = start(1)
    [(heir, _)] = start(1)
    maker.kill()
    maker.join()
    [(third, value)] = start(1)
    assert value == np.arange(1500).sum()
    assert makings(tmp_path) == 1
    for process in (heir, third):
        process.kill()
        process.join()
    directory = tmp_path / f"side-ray-{os.getuid()}"
    assert sum(path.stat().st_size for path in directory.iterdir()) < 1000  # a name, and nothing of the array
    start(1)
    assert makings(tmp_path) == 2


def test_writing_to_it_reaches_nobody_else(start, tmp_path):
    array = shared_array("key", SHAPE, lambda array: array.fill(2.0))
    array[:] = 5
    assert shared_array("key", SHAPE, lambda array: array.fill(7.0)).max() == 2
    assert shared_array("other", SHAPE, lambda array: array.fill(7.0)).max() == 7


def test_a_maker_that_fails_leaves_it_to_the_next(start, tmp_path):
    def fail(array: np.ndarray) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shared_array("key", SHAPE, fail)
    assert shared_array("key", SHAPE, lambda array: array.fill(1.0)).min() == 1


@pytest.mark.parametrize("told", ["", "5", "{", '{"pid": 1}', "pipe"])
def test_what_is_written_down_wrongly_is_not_followed(told, tmp_path, monkeypatch):
    """Also where the number has become that of a process with a pipe, which nobody writes to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shared_array("key", SHAPE, lambda array: array.fill(3.0))
    [place] = (tmp_path / f"side-ray-{os.getuid()}").iterdir()
    if told == "pipe":
        os.mkfifo(tmp_path / "pipe")
        end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        told = json.dumps({"pid": os.getpid(), "fd": end, "inode": 1, "device": 1})
    place.write_text(told)
    assert shared_array("key", SHAPE, lambda array: array.fill(4.0)).max() == 4


def test_a_directory_that_others_can_write_to_is_not_used(start, tmp_path):
    (tmp_path / f"side-ray-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(PermissionError):
        shared_array("key", SHAPE, lambda array: None)
