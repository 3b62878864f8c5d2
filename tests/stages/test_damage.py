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
from side_ray.config import Config
from side_ray.execution import shard_pool
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.sources.published.digits import load_digits
from side_ray.stages import label, prepare, score
from side_ray.studies.given import given_config
from side_ray.training import trainer
from tests.audits import tiny_config
from tests.formats import write_folder
from tests.local import pass_here

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


pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]


@pytest.fixture(scope="module", autouse=True)
def in_process() -> Iterator[None]:
    """The stages' own actors, tasks and trainings, in this process instead of Ray's."""

    def stream(actor, spec, tasks, config):
        made = actor(spec)
        for task in tasks:
            row = made({"job": np.array([task.job]), "shard": np.array([task.shard])})
            yield {name: value[0].item() for name, value in row.items()}

    def fit(spec, cluster, workers):
        trainer._work(spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_pool, "_stream", stream)
        patch.setattr(trainer, "_fit", fit)
        patch.setattr(prepare, "run_pass", pass_here)
        for module in (label, score):
            patch.setattr(module, "run_remotely", lambda function, *arguments, **options: function(*arguments))
        for module in (shard_pool, trainer, label, score, prepare):
            patch.setattr(module, "ensure_ray", lambda cluster: None)
        for module in (shard_pool, trainer):
            patch.setattr(module, "check_room", lambda *of: "")
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
    found = sorted(each for each in root.rglob("*") if each != file and each.is_file())
    found = [each for each in found if each.suffix == file.suffix] or found
    yield from sorted(found, key=lambda each: (each.name != file.name, each.read_bytes() == file.read_bytes()))


def foreign(file: Path) -> None:
    shutil.copy(next((each for each in others(file) if each.parent != file.parent), next(others(file))), file)


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
        value = value if isinstance(value, dict) else {"stages": value}
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
    prepare, dpm, surrogate, strata, report = (
        root / each.key
        for each in (artifacts.prepare, artifacts.dpm, artifacts.surrogate, artifacts.strata, artifacts.report)
    )
    student = surrogate / "student"
    return {
        "prepare part": prepare / "part-000000.parquet",
        "prepare plan": prepare / "scan" / "plan.parquet",
        "prepare duplicates": prepare / "duplicates.parquet",
        "prepare info": prepare / "info.json",
        "prepare mark": prepare / "_done.json",
        "prepare mark copy": prepare / "_done_copy.json",
        "dpm mark": dpm / "_done.json",
        "dpm weights": next(dpm.glob("*.safetensors")),
        "dpm config": dpm / "config.json",
        "dpm scheduler": dpm / "scheduler" / "scheduler_config.json",
        "synthetic": root / artifacts.synthetic.key(1),
        "labels": surrogate / "labels.parquet",
        "label counts": surrogate / "labels.json",
        "surrogate mark": surrogate / "_done.json",
        "student weights": student / "model.safetensors",
        "student config": student / "config.json",
        "student mark": student / "_done.json",
        "student curve": student / "curve.json",
        "samples of random": root / artifacts.samples(random_).key(0),
        "samples": root / artifacts.samples(td).key(1),
        "cut": root / artifacts.cut.key(1),
        "strata": strata / "strata.parquet",
        "centroids": strata / "centroids.parquet",
        "strata mark": strata / "_done.json",
        "scores": root / artifacts.scores(random_).key(0),
        "hits": root / artifacts.hits(td).key(1),
        "metrics": report / "metrics.json",
        "table": report / "metrics.csv",
        "extracted": report / "extracted.csv",
        "extracted table": report / "extracted.parquet",
        "ledger": report / "ledger.parquet",
        "figure": next((report / "figures").iterdir()),
        "page": report / "index.html",
        "report mark": report / "_done.json",
        "page copy": root / "report.html",
        "latest": root / "latest.json",
        "plan": root / "plan.json",
        "config": root / "config.yaml",
    }


KINDS = [
    *("prepare part", "prepare plan", "prepare duplicates", "prepare info", "prepare mark", "prepare mark copy"),
    *("dpm mark", "dpm weights", "dpm config", "dpm scheduler", "synthetic", "labels", "label counts"),
    *("surrogate mark", "student weights", "student config", "student mark", "student curve"),
    *("samples of random", "samples", "cut", "strata", "centroids", "strata mark", "scores", "hits"),
    *("metrics", "table", "extracted", "extracted table", "ledger", "figure", "page", "report mark"),
    *("page copy", "latest", "plan", "config"),
]
RETRAINED = ("synthetic", "labels", "label counts")
"""Read only by the training of the student."""
WRITTEN_AGAIN = ("page copy", "latest", "plan", "config")
"""By every command, so that their damage needs no line."""
NOT_NEEDED = ("student curve", "prepare mark copy")
"""Not made again by itself: a figure is not worth a training, and the copy is read only where the mark is damaged."""
REPORTED = KINDS[KINDS.index("metrics") :]


def numbers(root: Path) -> dict:
    """All metrics; of their provenance only the digests of the weights and the paths in the run."""
    directory = root / Artifacts.open(tiny_config(root, **SMALL)).report.key
    metrics = json.loads((directory / "metrics.json").read_text())
    found = {name: value for name, value in metrics.items() if name not in ("provenance", "sealed")}
    tables = {name: (directory / name).read_text() for name in ("metrics.csv", "extracted.csv")}
    tables["ledger"] = pq.read_table(directory / "ledger.parquet").to_pydict()
    return found | tables | {name: metrics["provenance"][name] for name in ("sha256", "artifacts")}


def read_again(root: Path, kind: str) -> None:
    """Delete outputs so that the next command reads files of that kind."""
    artifacts = Artifacts.open(tiny_config(root, **SMALL))
    if kind in REPORTED and kind != "latest":
        return
    shutil.rmtree(root / artifacts.report.key)
    if kind in RETRAINED:
        shutil.rmtree(root / artifacts.surrogate.key / "student")
    if kind.startswith(("prepare", "dpm", "student", "samples", "centroids")):
        for condition in (Condition("random", 0.0), Condition("td", 2.0)):
            (root / artifacts.scores(condition).key(1)).unlink()
            (root / artifacts.samples(condition).key(0)).unlink(missing_ok=True)


def run(root: Path, config_of: Callable[[Path], Config] = lambda root: tiny_config(root, **SMALL)) -> str:
    reporter = Reporter(Console(record=True, width=1000, file=io.StringIO()))
    run_until("report", config_of(root), reporter)
    return reporter.console.export_text()


def hurt(finished: Path, root: Path, kind: str, damage: Callable[[Path], None]) -> Path:
    """A copy of the run with one damage; returns the file."""
    shutil.copytree(finished, root)
    file = files_of(root)[kind]
    damage(file)
    return file


def check(finished: Path, file: Path, kind: str, damage: Callable[[Path], None], said: str) -> None:
    """The numbers are those of the undamaged run, and each repair is one line."""
    root = next(parent for parent in file.parents if (parent / "config.yaml").exists())
    wrong, right = numbers(root), numbers(finished)
    assert [name for name in right if wrong[name] != right[name]] == [], (kind, damage.__name__, said)
    lines = [line for line in said.splitlines() if line.startswith("warning")]
    lines = [line for line in lines if "The cut does not keep" not in line and "the network was lost" not in line]
    assert all(len(line) < 400 for line in lines)
    assert len(lines) <= 3, said


NEVER_THE_SAME = (
    "latest",
    "config",
    "plan",
    "report mark",
    "surrogate mark",
    "page",
    "page copy",
    "metrics",
    "student mark",
    "figure",
    "table",
)
"""Contain paths, or times."""


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_command_finds_mends_and_says_each_damage(finished, tmp_path, kind):
    for damage in DAMAGES:
        file = hurt(finished, tmp_path / damage.__name__, kind, damage)
        before = file.read_bytes() if file.exists() else None
        said = run(tmp_path / damage.__name__)
        check(finished, file, kind, damage, said)
        whole = (finished / file.relative_to(tmp_path / damage.__name__)).read_bytes()
        if kind not in (*NOT_NEEDED, *NEVER_THE_SAME) and damage is not older:
            assert file.read_bytes() == whole
        if before != whole:
            key = file.relative_to(tmp_path / damage.__name__).as_posix()
            words = key.rpartition("/")[0] if damage in (older, swapped) else key
            assert kind in (*WRITTEN_AGAIN, *NOT_NEEDED) or words in said or "of an earlier version" in said, (
                damage.__name__,
                said,
            )
        shutil.rmtree(tmp_path / damage.__name__)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_what_is_read_changes_no_number(finished, tmp_path, kind):
    for damage in DAMAGES:
        file = hurt(finished, tmp_path / damage.__name__, kind, damage)
        read_again(tmp_path / damage.__name__, kind)
        said = run(tmp_path / damage.__name__)
        assert file.exists() or kind in NOT_NEEDED
        check(finished, file, kind, damage, said)
        shutil.rmtree(tmp_path / damage.__name__)


def given(root: Path) -> Config:
    """An audit of given samples in folders beside the run."""
    paths = [str(root.parent / name) for name in ("samples", "train", "unseen")]
    return given_config(*paths, run=str(root), overrides=["extract.shard_size=20", "score.engine=torch"])


def controlled(root: Path) -> Config:
    """An audit with a control and no student."""
    extract = SMALL["extract"] | {"methods": ["random"], "lambdas": [0]}
    return tiny_config(root, **SMALL | {"extract": extract, "control": {"members": 60}})


def metrics_of(config: Config) -> dict:
    metrics = Artifacts.open(config).report.read_json("metrics.json")
    return {name: value for name, value in metrics.items() if name not in ("provenance", "sources")}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("config_of", [given, controlled])
def test_damage_to_any_file_of_other_audits_changes_no_number(in_process, tmp_path, config_of):
    digits = load_digits().images
    digits = np.repeat(digits, 3, axis=-1)
    for name, images in (("samples", digits[:60]), ("train", digits[20:80]), ("unseen", digits[100:160])):
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name, images)
    whole = tmp_path / "run"
    run_until("report", config_of(whole), Reporter())
    artifacts = Artifacts.open(config_of(whole))
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.suffix in (".parquet", ".json")]
    files = [path for path in files if len(path.parts) > 1 and path.parts[0] != "report" and "scan" not in path.parts]
    files = [path for path in files if not path.stem.startswith("part-") or path.stem == "part-000000"]
    if artifacts.config.control:
        audits = {artifacts.prepare.fingerprint, artifacts.dpm.fingerprint}
        files = [path for path in files if not audits & set(path.parts)]
    for path in sorted(files):
        for damage in DAMAGES:
            root = tmp_path / "copy"
            shutil.copytree(whole, root)
            damage(root / path)
            # The scheduler of the control's model is the same as the audited one's.
            differs = not (root / path).exists() or (root / path).read_bytes() != (whole / path).read_bytes()
            for again in range(2 if damage in (flipped, deleted) else 1):
                said = run(root, config_of)
                assert metrics_of(config_of(root)) == metrics_of(config_of(whole)), (path, damage.__name__, said)
                if not again:
                    assert damage is older or not differs or str(path.parent) in said or "_done_copy" in path.name, (
                        path,
                        damage,
                        said,
                    )
                shutil.rmtree(root / artifacts.report.key)
                if artifacts.config.control:
                    shutil.rmtree(root / artifacts.control.key, ignore_errors=True)
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


def test_a_report_names_its_own_artifacts_whatever_other_commands_do(local_audit):
    latest, named = local_audit.run.latest(), local_audit.report.read_json("metrics.json")["provenance"]["artifacts"]
    assert named == {name: path for name, path in latest.items() if name != "report"}
