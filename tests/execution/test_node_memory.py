"""An array shared by the processes of a node: created once, and again after the last process has released it."""

import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from side_ray.execution.node import memory
from side_ray.execution.node.memory import passing, shared_array

pytestmark = pytest.mark.long

SHAPE = 300, 5


def hold(directory: str, made: str, pipe: Connection) -> None:
    """Map the array, print its sum, and keep it until killed."""
    tempfile.tempdir = directory

    def fill(array: np.ndarray) -> None:
        with Path(made).open("a") as file:
            file.write("made\n")
        time.sleep(0.3)  # the other processes start meanwhile
        array[:] = np.arange(array.size).reshape(array.shape)

    array = shared_array("key", SHAPE, fill)
    pipe.send(float(array.sum()))
    pipe.recv()


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a process that maps the array; returns the process and its output."""
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


def test_three_processes_share_the_array_of_the_first(start, tmp_path):
    found = start(3)
    assert [value for _, value in found] == [np.arange(1500).sum()] * 3
    assert makings(tmp_path) == 1
    # A file that several processes map has one inode.
    maps = [Path(f"/proc/{process.pid}/maps").read_text().splitlines() for process, _ in found]
    mapped = [{line.split()[4] for line in lines if f"/side-ray-{os.getuid()}/" in line} for lines in maps]
    assert len(mapped[0]) == 1
    assert mapped == [mapped[0]] * 3


def test_it_outlives_its_creator_and_is_created_again_after_the_last_process(start, tmp_path):
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
    assert sum(path.stat().st_size for path in directory.iterdir()) < 1000  # only the record, not the array
    start(1)
    assert makings(tmp_path) == 2


def test_writes_stay_in_one_process(start, tmp_path):
    array = shared_array("key", SHAPE, lambda array: array.fill(2.0))
    array[:] = 5
    assert shared_array("key", SHAPE, lambda array: array.fill(7.0)).max() == 2
    assert shared_array("other", SHAPE, lambda array: array.fill(7.0)).max() == 7


def test_the_next_process_creates_it_after_a_failure(start, tmp_path):
    def fail(array: np.ndarray) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shared_array("key", SHAPE, fail)
    assert shared_array("key", SHAPE, lambda array: array.fill(1.0)).min() == 1


@pytest.mark.parametrize("recorded", ["", "5", "{", '{"pid": 1}', "pipe"])
def test_a_wrong_record_is_ignored(recorded, tmp_path, monkeypatch):
    """Even if the pid now belongs to a process with a pipe at this descriptor, from which a read would block."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shared_array("key", SHAPE, lambda array: array.fill(3.0))
    [place] = (tmp_path / f"side-ray-{os.getuid()}").iterdir()
    if recorded == "pipe":
        os.mkfifo(tmp_path / "pipe")
        end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        recorded = json.dumps({"pid": os.getpid(), "fd": end, "inode": 1, "device": 1})
    place.write_text(recorded)
    assert shared_array("key", SHAPE, lambda array: array.fill(4.0)).max() == 4


def test_a_directory_that_others_can_write_to_is_not_used(start, tmp_path):
    (tmp_path / f"side-ray-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(PermissionError):
        shared_array("key", SHAPE, lambda array: None)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("settings", [{}, {"engine": "faiss"}, {"engine": "torch", "kernel": "float32"}])
def test_pages_that_are_given_back_while_a_search_reads_change_nothing(metric, settings, tmp_path, monkeypatch):
    from side_ray.search import Index  # which the other processes of this module need not load

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(memory, "LARGE", 0)
    monkeypatch.setattr(memory, "GIVEN_BACK_EVERY", 1e-4)
    rows = np.random.default_rng(0).integers(0, 256, (2000, 192)).astype(np.float32)
    if metric == "ip":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shared, ids = shared_array("rows", rows.shape, lambda array: np.copyto(array, rows)), np.arange(2000)
    with passing(shared):
        index = Index(shared, ids, metric, **settings)
    with passing(index.part.features):
        found, _ = index.search(rows[:100], 20)
    expected, _ = Index(rows, ids, metric, **settings).search(rows[:100], 20)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(shared, rows)
