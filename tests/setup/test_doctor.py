"""What `doctor` says of a healthy machine, and of each thing that can be wrong."""

import json
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from side_ray.cli.app import app
from side_ray.setup import doctor as module
from side_ray.setup.doctor import doctor
from side_ray.storage import open_store

Usage = namedtuple("Usage", "total used free")


def remedies(*arguments) -> dict[str, str]:
    return {each.name: each.remedy for each in doctor(*arguments) if each.remedy}


@pytest.fixture
def healthy(monkeypatch):
    """A machine with enough of everything, whatever the one under test has."""
    monkeypatch.setattr(module, "_available_memory", lambda: 2**35)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))


def test_a_healthy_machine(healthy, tmp_path):
    found = {each.name: each for each in doctor(open_store(str(tmp_path)))}
    assert [each for each in found.values() if each.remedy] == []
    assert found["memory"].found == "32.0 GiB free"
    assert "MB/s" in found["storage"].found
    assert list(tmp_path.iterdir()) == []


def test_too_little_of_everything_is_noticed(healthy, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_available_memory", lambda: 2**30)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**20))
    found = remedies()
    assert "lower cluster.actors" in found["memory"]
    assert "--shm-size" in found["shared memory"]
    assert "SIDE_RAY_CACHE" in found["disk (cache)"]


def test_a_missing_faiss_and_a_missing_package_are_noticed(healthy, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    def missing(name):
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    found = remedies()
    assert "[cpu]" in found["faiss"]
    assert {"ray", "torch", "diffusers", "pyarrow"} <= set(found)


def test_a_gpu_that_torch_cannot_use_is_noticed(healthy, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    assert "CUDA build of torch" in remedies()["device"]


def test_a_store_that_cannot_be_written_is_noticed(healthy, tmp_path):
    (tmp_path / "file").write_text("")
    assert remedies(open_store(str(tmp_path / "file" / "run")))["storage"]


def test_the_verb_exits_with_3_where_something_is_wrong(healthy, monkeypatch):
    assert CliRunner().invoke(app, ["doctor", "--json"]).exit_code == 0
    monkeypatch.setattr(module, "_available_memory", lambda: 2**30)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 3
    assert "memory" in {row["name"] for row in json.loads(result.stdout) if row["remedy"]}
    assert "checks failed: memory" in result.stderr
