"""Every command and every Python example of the documentation: all are parsed, and what this kind of machine can run is run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from PIL import Image
from typer.testing import CliRunner

from side_ray.cli.app import app
from side_ray.config.file import load_config
from side_ray.studies.sweep_plan import settings
from tests.docs.pages import PAGES, ROOT, blocks, commands, lines, only, spans
from tests.stages.test_import_samples import drawn, folder

VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
CONFIGS = ROOT / "jobs" / "configs"
EVERY_COMMAND = pytest.mark.parametrize("command", commands(), ids=str)
RUN_HERE = {
    "doctor", "init", "plan", "audit", "score", "status", "open", "remake", "compare", "export", "purge", "sweep", "reproduce",
    "theory", "twins", "canaries", "submit", "stop", "batch",
}  # fmt: skip
"""Verbs with a test below, in test_newcomer.py (`audit`), in tests/studies (`twins`, `batch`) or in tests/end_to_end
(`submit`, `stop`)."""


def process(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "side_ray.cli", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=500, env=env)


def test_blocks_are_of_a_known_kind():
    assert {block.language for block in blocks()} <= {"", "sh", "python", "pycon", "py", "yaml", "text", "bibtex"}
    shell = ("make audit", "ray job submit ", "python -m venv ", "python -m docs.demos.")
    other = (*shell, ".venv/bin/python -m pip install ")
    assert [line for _, line in lines() if not line.startswith((*other, "side-ray ", ".venv/bin/side-ray "))] == []
    assert {command.verb for command in commands()} == RUN_HERE
    # `python` is run below; `py` is only shown.
    assert {block.page for block in blocks() if block.language == "python"} == {"report.md", "your-images.md"}


@EVERY_COMMAND
def test_flags_parse(command):
    with VERBS[command.verb].make_context(command.verb, list(command.arguments[1:])):
        pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_exist(page):
    for span in spans(page):
        words = span.split()
        if words[0] != "side-ray" or words[1:2] in ([], ["VERB"]) or words[1].startswith("-"):
            continue
        verb = VERBS[words[1]]
        options = {option for parameter in verb.params for option in parameter.opts} | {"-h"}
        assert {word for word in words[2:] if word.startswith("-")} <= options, span


@EVERY_COMMAND
def test_settings_are_accepted(command):
    """A config that the page writes with `init` is one that the package carries."""
    files = [each for each in command.arguments if each.endswith(".yaml")]
    if command.verb in ("init", "batch") or not files:
        return
    started = {each.page: each.arguments[1] for each in commands() if each.verb == "init"}
    path = ROOT / files[0] if "/" in files[0] else CONFIGS / f"{started[command.page]}.yaml"
    overrides = [each for each in command.arguments if re.match(r"[a-z]+\.\w", each) and each not in files]
    config = load_config(path, overrides)
    values = [override.partition("=")[2].strip("[]").split(", ") for override in overrides if "null" not in override]
    assert all(repr(each)[1:-1] in config.to_yaml() for items in values for each in items)


def test_jobs_that_are_submitted_exist_and_accept_their_settings():
    found = [line for _, line in lines(("", "sh", "text")) if "ray job submit" in line]
    assert len(found) >= 2
    for line in found:
        job, _, config, *overrides = line.partition("python ")[2].split()
        assert (ROOT / job).exists()
        assert load_config(ROOT / config, overrides).run.uri.startswith("s3://")


def test_configs_that_init_is_said_to_know_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"side-ray init (\w+)|`init (\w+)`", text))
    assert {"digits", "folder", "digits_tiny", "cifar10"} <= {"".join(each) for each in names}
    for name in names:
        assert (CONFIGS / f"{''.join(name)}.yaml").exists()


def test_sweep_settings_are_accepted():
    path, *overrides = only("sweep")
    found = settings(load_config(ROOT / path, overrides))
    assert len([each for each in found if each.scale]) == 12


# --- what is run


@pytest.fixture
def small_run(local_audit) -> str:
    return local_audit.run.store.uri


def at(run: str, verb: str) -> list[str]:
    """The arguments of a command of commands.md, on another run."""
    return [run if each.startswith("runs/") else each for each in only(verb)]


@pytest.mark.long
def test_a_first_look(tmp_path, monkeypatch):
    """The quickstart's commands, up to the audit itself."""
    monkeypatch.chdir(tmp_path)
    for verb, codes in (("init", [0]), ("doctor", [0, 3]), ("plan", [0])):
        arguments = next(each.arguments for each in commands() if each.verb == verb and each.page == "quickstart.md")
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code in codes, result.stderr
    assert "samples" in result.stdout
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_plan_of_canaries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (arguments,) = [each.arguments for each in commands() if each.verb == "canaries"]
    Image.new("L", (2, 2)).save("one.png")
    Path("images").mkdir()
    for number in range(600):
        shutil.copy("one.png", f"images/{number}.png")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert len(Path("canaries.csv").read_text().splitlines()) == 601


@pytest.mark.slow
def test_the_probe_of_plan(tmp_path):
    arguments = [each.arguments for each in commands() if each.verb == "plan" and each.page == "quickstart.md"][-1]
    assert process("init", "digits", cwd=tmp_path).returncode == 0
    result = process(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "device-hours" in result.stdout


@pytest.mark.slow
def test_score_of_generated_images(tmp_path):
    train, unseen, samples = drawn()
    for name, images in (("generated", samples), ("train", train), ("unseen", unseen)):
        folder(tmp_path / name, images)
    result = process("score", *only("score", "README.md"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Given samples" in result.stdout
    assert (tmp_path / "runs" / "generated" / "report.html").exists()


@pytest.mark.slow
def test_sweep(tmp_path):
    path, *overrides = only("sweep")
    small = [
        "dpm.kind=optimal",
        "surrogate.synthetic=1000",
        "surrogate.steps=200",
        "extract.samples=500",
        "extract.steps=4",
    ]
    result = process("sweep", path, *overrides, *small, f"run.uri={tmp_path}/run", "sweep.lambdas=[0, 1, 5]")
    assert result.returncode == 0, result.stderr
    assert "samples: 2,500 of 2,500" in result.stdout


def test_reproduce(tiny_audit, side_ray, tmp_path):
    shutil.copytree(tiny_audit.run.store.uri, tmp_path / "run")
    result = side_ray("reproduce", *at(f"{tmp_path}/run", "reproduce"))
    assert result.exit_code == 0, result.stderr
    assert "Table 1: AMS and UMS of three methods" in result.stdout


@pytest.mark.slow
def test_theory(tmp_path):
    small = ["theory.points=20", "theory.ode_steps=8", "theory.draws=1", "theory.epsilons=[0.01]", "dpm.kind=optimal"]
    result = process("theory", *only("theory"), f"run.uri={tmp_path}/run", *small)
    assert result.returncode == 0, result.stderr
    assert "the average holds" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("/theory.md")


def test_status(tiny_audit, side_ray):
    result = side_ray("status", tiny_audit.run.store.uri)
    assert result.exit_code == 0, result.stderr
    assert "600 of 600 samples" in result.stdout


@pytest.mark.long
def test_remake_and_purge(small_run, side_ray, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    smaller = {"8": "2", "868": "68"}
    made, removed = (
        side_ray(verb, *(smaller.get(each, each) for each in at(f"{tmp_path}/run", verb)), *more)
        for verb, more in (("remake", ()), ("purge", ("--yes",)))
    )
    assert "identical" in made.stdout, made.stderr
    assert removed.exit_code == 0, removed.stderr


@pytest.mark.long
def test_compare_export_and_open(small_run, side_ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compared = side_ray("compare", *at(small_run, "compare"))
    assert compared.exit_code == 0, compared.stderr
    assert "no difference shown" in (tmp_path / "comparison.html").read_text()
    exported = side_ray("export", *at(small_run, "export"))
    assert exported.exit_code == 0, exported.stderr
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["croissant.json", "memorization.md"]
    opened = side_ray("open", *at(small_run, "open"), "--no-browser")
    assert opened.stdout.endswith("/report.html\n"), opened.stderr


def python_of(page: str) -> str:
    (block,) = [block.text for block in blocks() if block.language == "python" and block.page == page]
    return block


def test_python_on_a_run(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(python_of("report.md").replace("runs/mine", small_run).replace('"td", 8', '"td", 2'), {})
    assert capsys.readouterr().out.endswith("True\n")
    assert (tmp_path / "rarefaction.svg").exists()


@pytest.mark.slow
def test_python_on_arrays(ray_session, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(python_of("your-images.md"), {})
    assert "Cannot say" in capsys.readouterr().out
