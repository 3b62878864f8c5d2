"""Damage to the files of a finished run: the next command makes them again, says so, and comes to the same numbers."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from side_ray.algorithm import run_until
from side_ray.execution import shard_pool
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.stages import label
from side_ray.training import trainer
from tests.audits import tiny_config

SMALL = {
    "score__shards": 1,
    "score__engine": "torch",
    "data": {"source": "digits", "members": 120, "holdout": 60},
    "dpm": {"kind": "optimal"},
    "surrogate__synthetic": 200,
    "surrogate__steps": 60,
    "extract": {
        "methods": ["random", "td"],
        "lambdas": [0, 2.0],
        "samples": 100,
        "shard_size": 50,
        "batch_size": 50,
        "sampler": "ddim",
        "steps": 5,
    },
}


pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def in_process() -> Iterator[None]:
    """The stages' own actors, tasks and trainings, in this process instead of Ray's."""

    def stream(actor, spec, tasks, config):
        made = actor(spec)
        for task in tasks:
            row = made({"job": np.array([task.job]), "shard": np.array([task.shard])})
            yield {name: value[0].item() for name, value in row.items()}

    def fit(spec, cluster, workers):
        trainer._work({"spec": spec})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_pool, "_stream", stream)
        patch.setattr(trainer, "_fit", fit)
        patch.setattr(label, "run_remotely", lambda function, *arguments, **options: function(*arguments))
        for module in (shard_pool, trainer, label):
            patch.setattr(module, "ensure_ray", lambda cluster: None)
        yield


@pytest.fixture(scope="module")
def finished(in_process, tmp_path_factory) -> Path:
    """A small finished audit, which every test copies."""
    root = tmp_path_factory.mktemp("damage") / "run"
    run_until("report", tiny_config(root, **SMALL), Reporter())
    return root


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    where = random.Random(str(file.name)).randrange(len(data) * 8)
    data[where // 8] ^= 1 << where % 8
    file.write_bytes(data)


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def binary(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(file.stat().st_size))


def deleted(file: Path) -> None:
    file.unlink()


def others(file: Path) -> Iterator[Path]:
    """The other files of the run of the same format, those of the same name first."""
    root = next(parent for parent in file.parents if (parent / "config.yaml").exists())
    found = sorted(each for each in root.rglob(f"*{file.suffix}") if each != file and each.is_file())
    yield from sorted(found, key=lambda each: (each.name != file.name, each.read_bytes() == file.read_bytes()))


def foreign(file: Path) -> None:
    shutil.copy(next(each for each in others(file) if each.parent != file.parent), file)


def swapped(file: Path) -> None:
    neighbour = next((each for each in others(file) if each.parent == file.parent), next(others(file)))
    one, other = file.read_bytes(), neighbour.read_bytes()
    file.write_bytes(other)
    neighbour.write_bytes(one)


def older(file: Path) -> None:
    """The file as a version without digests wrote it."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        pq.write_table(table, file)
    elif file.suffix == ".json":
        value = json.loads(file.read_bytes())
        file.write_text(json.dumps({k: v for k, v in value.items() if k not in ("sealed", "files")}, indent=1))


DAMAGES: list[Callable[[Path], None]] = [
    flipped,
    truncated,
    emptied,
    binary,
    deleted,
    foreign,
    swapped,
    older,
]


def files_of(root: Path) -> dict[str, Path]:
    """One file of each kind."""
    artifacts = Artifacts.open(tiny_config(root, **SMALL))
    random_, td = Condition("random", 0.0), Condition("td", 2.0)
    student = root / artifacts.surrogate.key / "student"
    report = root / artifacts.report.key
    return {
        "prepare part": root / artifacts.prepare.key / "part-000000.parquet",
        "prepare mark": root / artifacts.prepare.key / "_done.json",
        "dpm mark": root / artifacts.dpm.key / "_done.json",
        "dpm weights": next((root / artifacts.dpm.key).glob("*.safetensors")),
        "dpm config": root / artifacts.dpm.key / "config.json",
        "synthetic": root / artifacts.synthetic.key(1),
        "labels": root / artifacts.surrogate.key / "labels.parquet",
        "label counts": root / artifacts.surrogate.key / "labels.json",
        "student weights": student / "model.safetensors",
        "student config": student / "config.json",
        "student mark": student / "_done.json",
        "student curve": student / "curve.json",
        "samples": root / artifacts.samples(td).key(1),
        "cut": root / artifacts.cut.key(1),
        "scores": root / artifacts.scores(random_).key(0),
        "hits": root / artifacts.hits(td).key(1),
        "metrics": report / "metrics.json",
        "table": report / "metrics.csv",
        "page": report / "index.html",
        "report mark": report / "_done.json",
        "latest": root / "latest.json",
        "config": root / "config.yaml",
    }


KINDS = [
    *("prepare part", "prepare mark", "dpm mark", "dpm weights", "dpm config", "synthetic", "labels", "label counts"),
    *("student weights", "student config", "student mark", "student curve", "samples", "cut", "scores", "hits"),
    *("metrics", "table", "page", "report mark", "latest", "config"),
]
RETRAINED = ("synthetic", "labels", "label counts")
"""Read only by the training of the student."""
REPORTED = ("metrics", "table", "page", "report mark", "latest", "config")


def numbers(root: Path) -> dict:
    metrics = json.loads((root / Artifacts.open(tiny_config(root, **SMALL)).report.key / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name not in ("provenance", "sealed")} | {
        "sha256": metrics["provenance"]["sha256"]
    }


def read_again(root: Path, kind: str) -> None:
    """Delete outputs so that the next command reads files of that kind."""
    artifacts = Artifacts.open(tiny_config(root, **SMALL))
    if kind in REPORTED:
        return
    shutil.rmtree(root / artifacts.report.key)
    if kind in RETRAINED:
        shutil.rmtree(root / artifacts.surrogate.key / "student")
    if kind.startswith(("prepare", "dpm", "student", "samples")):
        for condition in (Condition("random", 0.0), Condition("td", 2.0)):
            (root / artifacts.scores(condition).key(1)).unlink()
            (root / artifacts.samples(condition).key(0)).unlink()


def run(root: Path) -> str:
    reporter = Reporter(Console(record=True, width=1000, file=io.StringIO()))
    run_until("report", tiny_config(root, **SMALL), reporter)
    return reporter.console.export_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damage_changes_no_number(finished, tmp_path, kind):
    right = numbers(finished)
    for damage in DAMAGES:
        root = tmp_path / damage.__name__
        shutil.copytree(finished, root)
        file = files_of(root)[kind]
        damage(file)
        hurt = file.read_bytes() if file.exists() else None
        read_again(root, kind)
        said = run(root)
        assert numbers(root) == right, (kind, damage.__name__, said)
        assert file.exists()
        if damage not in (older, swapped) and kind not in ("latest", "config", "student curve"):
            assert file.read_bytes() != hurt, (kind, damage.__name__)
        warnings = [line for line in said.splitlines() if "making it again" in line or "restored" in line]
        assert all(len(line) < 400 for line in warnings)
        shutil.rmtree(root)


def test_several_damages_at_once_are_mended_and_said(finished, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    files = files_of(root)
    truncated(files["prepare part"])
    flipped(files["dpm weights"])
    emptied(files["student mark"])
    foreign(files["hits"])
    swapped(files["samples"])
    binary(files["latest"])
    deleted(files["page"])
    for condition in (Condition("random", 0.0), Condition("td", 2.0)):
        (root / Artifacts.open(tiny_config(root, **SMALL)).scores(condition).key(0)).unlink()
    said = run(root)
    assert numbers(root) == numbers(finished)
    for words in ("part-000000.parquet cannot be read", "hits/", "is a copy of samples/", "restored from its copy"):
        assert words in said
    assert files["page"].exists()
    assert run(root).count("warning") == said.count("too few")
