"""The verbs that read runs: text, JSON, files and exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import side_ray
from side_ray.cli.app import app

VERBS = [command.name for command in app.registered_commands]


def side_ray_(*arguments: str):
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def uri(local_audit) -> str:
    return local_audit.run.store.uri


def test_status(uri):
    assert "200 of 200 samples" in side_ray_("status", uri).stdout
    found = json.loads(side_ray_("status", uri, "--json").stdout)
    assert found["purged"] is None
    assert {row["stage"]: row["left"] for row in found["stages"]}["extract"] == 0


def test_remake(uri, tmp_path):
    result = side_ray_("remake", uri, "--method", "td", "--lambda", "2", "--sample", "7", "--out", f"{tmp_path}/a.png")
    assert result.exit_code == 0, result.stderr
    assert "identical: every pixel equals that of the stored image" in result.stdout
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "a.png")), np.asarray(side_ray.open_run(uri).pair("td/2/7").sample)
    )
    made = json.loads(side_ray_("remake", uri, "--method", "td", "--sample", "7", "--json").stdout)
    assert (made["identical"], made["lambda"], made["sample_id"]) == (True, 2.0, 7)


def test_compare_exits_with_3_where_a_run_is_worse(uri, tmp_path, monkeypatch):
    same = side_ray_("compare", uri, uri, "--fail-worse", "--html", str(tmp_path / "page.html"))
    assert same.exit_code == 0, same.stderr
    assert "no difference shown" in same.stdout
    assert (tmp_path / "page.html").read_text().count("no difference shown") == 2
    row = {"run": 1, "method": "td", "lambda": 2.0, "worse": True}
    monkeypatch.setattr("side_ray.studies.compare.compare", lambda stores: {"runs": [], "rows": [row]})
    worse = side_ray_("compare", "a", "b", "--fail-worse", "--json")
    assert worse.exit_code == 3
    assert worse.stderr == "side-ray: more copies than in a: b: SIDE at λ=2\n"
    assert side_ray_("compare", "a", "b", "--json").exit_code == 0


def test_purge_asks_first(uri, tmp_path):
    shutil.copytree(uri, tmp_path / "run")
    run = str(tmp_path / "run")
    asked = side_ray_("purge", run)
    assert asked.exit_code == 2
    assert re.fullmatch(r"side-ray: purge: would remove \d+ files .*: give --yes to confirm\n", asked.stderr)
    assert list((tmp_path / "run" / "samples").rglob("*.parquet"))
    removed = json.loads(side_ray_("purge", run, "--yes", "--json").stdout)
    assert removed["files"] > 5
    assert not (tmp_path / "run" / "samples").exists()
    assert "its images were removed on 20" in side_ray_("status", run).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "/nowhere"], "/nowhere: holds no run"),
        (["compare", "/nowhere"], "compare: give two or more run directories"),
        (["compare", "/nowhere", "/nowhere"], "/nowhere: holds no report"),
        (["remake", "/nowhere", "--method", "td", "--sample", "1"], "/nowhere: holds no report"),
        (["purge", "/nowhere", "--yes"], "/nowhere: holds no run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, message):
    result = side_ray_(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"side-ray: {message}")
    assert result.stderr.count("\n") == 1


def test_the_version_is_the_package_s():
    assert side_ray_("--version").stdout == f"side-ray {side_ray.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_short_help_with_an_example(verb):
    result = side_ray_(verb, "-h")
    assert result.exit_code == 0
    assert f"side-ray {verb}" in result.stdout.split("Examples:")[1]


def test_exit_codes_are_in_the_help():
    text = " ".join(side_ray_("-h").stdout.split())
    assert all(f"{code} " in text.split("Exit codes:")[1] for code in (0, 1, 2, 3, 130))


def test_no_color_is_respected():
    env = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"}
    code = (
        "from side_ray.cli import app\n"
        "for command in (['-h'], ['status', '-h']):\n"
        "    assert app(command, standalone_mode=False) == 0"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert result.stdout.count("Usage: ") == 2, result.stderr
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", result.stdout + result.stderr)
