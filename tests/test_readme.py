"""Runs every command of the README that works on a single machine."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from side_ray.config.file import load_config
from side_ray.studies.sweep_plan import settings
from tests.stages.test_import_samples import drawn, folder

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines()]


@pytest.fixture
def small_run(local_audit) -> str:
    return local_audit.run.store.uri


def of_verb(verb: str) -> list[str]:
    """Arguments of the README's only `side-ray VERB` command for a laptop."""
    found = [shlex.split(line)[2:] for line in COMMANDS if line.startswith(f".venv/bin/side-ray {verb} ")]
    assert len(found) == 1
    return found[0]


def side_ray(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "side_ray.cli", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=250, env=env)


def test_no_command_is_left_out_here():
    # tests/end_to_end/test_order.py covers `make audit`, test_jobs.py the submitted jobs; `make test` runs this file.
    known = ("make audit", "make test", "ray job submit ", "side-ray status s3://", ".venv/bin/side-ray ")
    assert [line for line in COMMANDS if not line.startswith(known)] == []


@pytest.mark.long
def test_plan(tmp_path):
    result = side_ray("plan", *of_verb("plan"), f"run.uri={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    assert "device-hours" in result.stdout
    assert not list((tmp_path / "run").rglob("*.parquet"))


@pytest.mark.slow
def test_score_of_generated_images(tmp_path):
    train, unseen, samples = drawn()
    for name, images in (("generated", samples), ("train", train), ("unseen", unseen)):
        folder(tmp_path / name, images)
    result = side_ray("score", *of_verb("score"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Given samples" in result.stdout
    assert list((tmp_path / "runs" / "generated" / "report").rglob("index.html"))


def test_audit_settings_are_accepted():
    path, *overrides = of_verb("audit")
    assert load_config(ROOT / path, overrides).extract.sampler == "ddim"


def test_sweep_settings_are_accepted():
    path, *overrides = of_verb("sweep")
    found = settings(load_config(ROOT / path, overrides))
    assert len([each for each in found if each.scale]) == 12


@pytest.mark.slow
def test_sweep(tmp_path):
    path, *overrides = of_verb("sweep")
    small = [
        "dpm.kind=optimal",
        "surrogate.synthetic=1000",
        "surrogate.steps=200",
        "extract.samples=500",
        "extract.steps=4",
    ]
    result = side_ray("sweep", path, *overrides, *small, f"run.uri={tmp_path}/run", "sweep.lambdas=[0, 1, 5]")
    assert result.returncode == 0, result.stderr
    assert "samples: 2,500 of 2,500" in result.stdout


def test_reproduce(tiny_audit, tmp_path):
    shutil.copytree(tiny_audit.run.store.uri, tmp_path / "run")
    arguments = [f"{tmp_path}/run" if each == "runs/digits" else each for each in of_verb("reproduce")]
    result = side_ray("reproduce", *arguments)
    assert result.returncode == 0, result.stderr
    assert "Table 1: AMS and UMS of three methods" in result.stdout


@pytest.mark.parametrize("verb", ["theory", "twins"])
def test_settings_of_the_studies_are_accepted(verb):
    path, *overrides = of_verb(verb)
    assert load_config(ROOT / path, [*overrides, "control.members=300"]).dpm.kind == "train"


@pytest.mark.slow
def test_theory(tmp_path):
    small = ["theory.points=20", "theory.ode_steps=8", "theory.draws=1", "theory.epsilons=[0.01]", "dpm.kind=optimal"]
    result = side_ray("theory", *of_verb("theory"), f"run.uri={tmp_path}/run", *small)
    assert result.returncode == 0, result.stderr
    assert "the average holds" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("/theory.md")


def test_status(tiny_audit):
    result = side_ray("status", tiny_audit.run.store.uri)
    assert result.returncode == 0, result.stderr
    assert "600 of 600 samples" in result.stdout


@pytest.mark.long
def test_remake_and_purge(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    smaller = {"runs/mine": f"{tmp_path}/run", "8": "2", "868": "68"}
    made, removed = (
        side_ray(verb, *(smaller.get(each, each) for each in of_verb(verb)), *more)
        for verb, more in (("remake", ()), ("purge", ("--yes",)))
    )
    assert "identical" in made.stdout, made.stderr
    assert removed.returncode == 0, removed.stderr


@pytest.mark.long
def test_compare(small_run, tmp_path):
    arguments = [small_run if each.startswith("runs/") else each for each in of_verb("compare")]
    result = side_ray("compare", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no difference shown" in (tmp_path / "comparison.html").read_text()


@pytest.mark.long
def test_export(small_run, tmp_path):
    arguments = [small_run if each.startswith("runs/") else each for each in of_verb("export")]
    result = side_ray("export", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["croissant.json", "memorization.md"]


def test_python(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in BLOCKS if language == "python"]
    for block in blocks:
        exec(block.replace("runs/mine", small_run).replace('"td", 8', '"td", 2'), {})
    assert blocks
    assert capsys.readouterr().out.endswith("True\n")
    assert (tmp_path / "rarefaction.svg").exists()


@pytest.mark.parametrize("target", ["audit", "test", "test-unit", "test-all", "lint", "bench", "lock"])
def test_make_knows_its_targets(target):
    result = subprocess.run(["make", "--dry-run", target], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_paths_in_the_text_exist():
    for path in re.findall(
        r"\]\(([^)]+)\)|`((?:jobs|cluster|bench|tests|side_ray)/[\w/.]*)`", (ROOT / "README.md").read_text()
    ):
        assert (ROOT / "".join(path)).exists(), path
