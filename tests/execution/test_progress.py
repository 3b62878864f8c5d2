import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from side_ray.cli import actions
from side_ray.cli.app import app
from side_ray.execution import progress
from side_ray.execution.progress import Bar, Reporter


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def printed(**options) -> tuple[Reporter, io.StringIO]:
    text = io.StringIO()
    return Reporter(Console(file=text, soft_wrap=True), **options), text


def test_rate_leaves_out_the_time_before_the_first_units(clock):
    bar = Bar("extract", 5000, "samples", 1000)
    clock[0] += 60
    assert bar.rate == 0
    bar.advance(500)
    assert bar.rate == 0
    assert bar.describe() == "extract: 1,500/5,000 samples"
    clock[0] += 10
    bar.advance(500)
    assert bar.rate == 50
    assert bar.describe() == "extract: 2,000/5,000 samples, 50.0/s, about 1 min 00 s left"


def test_messages_name_the_step():
    reporter, text = printed()
    reporter.say("audit: begin")
    reporter.step(3, 9, "synthesize")
    reporter.say("half done")
    assert text.getvalue().splitlines() == ["audit: begin", "[3/9] half done"]


def test_quiet_prints_warnings_only():
    reporter, text = printed(quiet=True)
    reporter.say("unimportant")
    with reporter.bar("extract", 2, "samples"):
        pass
    reporter.warn("important")
    assert text.getvalue() == "warning: important\n"


def test_log_of_json_lines_is_whole_and_has_no_secret():
    reporter, text = printed(as_json=True)
    reporter.step(7, 9, "score")
    reporter.warn("no [answer] from https://user:secret@host/ " + "x" * 300)
    with reporter.bar("score", 2, "samples") as bar:
        bar.advance(2)
    first, second = map(json.loads, text.getvalue().splitlines())
    assert (first["level"], first["step"], second["level"]) == ("warning", "7/9 score", "info")
    assert first["text"].endswith("x" * 300)
    assert "secret" not in first["text"]
    assert second["text"].startswith("score: 2/2 samples")


def test_options_before_the_verb_reach_the_reporter(monkeypatch):
    monkeypatch.setattr(actions, "OPTIONS", {})
    monkeypatch.delenv("SIDE_RAY_TRACEBACK", raising=False)
    assert CliRunner().invoke(app, ["-q", "--no-progress", "--log-json", "models"]).exit_code == 0
    assert actions.OPTIONS == {"quiet": True, "progress": False, "as_json": True}
