from types import SimpleNamespace

import pytest

from side_ray import algorithm
from side_ray.cli import actions
from tests.audits import TINY
from tests.report.conftest import judged, unjudged


@pytest.mark.parametrize(
    ("outcome", "allowed", "code"),
    [
        ("found", 0, 3),
        ("found", 222, 3),
        ("found", 223, 0),
        ("found", None, 0),
        ("none_found", 0, 0),
        ("cannot_say", 0, 0),
    ],
)
def test_an_audit_that_found_more_than_allowed_exits_with_3(outcome, allowed, code, monkeypatch, capsys, tmp_path):
    report = SimpleNamespace(key="report/x", read_json=lambda name: judged(unjudged(), outcome))
    run = SimpleNamespace(store=SimpleNamespace(uri=str(tmp_path)))
    done = SimpleNamespace(artifacts=SimpleNamespace(report=report), run=run)
    monkeypatch.setattr(algorithm, "run_until", lambda *_: done)
    assert actions.run_verb("report", str(TINY), [f"run.uri={tmp_path}"], allowed) == code
    printed = capsys.readouterr()
    last = printed.out.strip().splitlines()[-1]
    assert last.startswith(
        "verdict: " + {"found": "Found", "none_found": "None found", "cannot_say": "Cannot say"}[outcome]
    )
    assert ("--fail-above" in printed.err) == (code == 3)
