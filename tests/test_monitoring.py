"""The Grafana dashboard and the Prometheus rules: they name metrics that exist, with labels that these have."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from side_ray.execution.metrics import COUNTERS, PROGRESS
from side_ray.studies.sweep_trial import SCORES
from side_ray.training.logger import GAUGES
from tests.audits import ROOT
from tests.execution.test_shard_pool import run

MONITORING = ROOT / "cluster" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
(GROUP,) = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
METRICS = {
    **{f"ray_side_ray_{name}_total": tags for name, (_, tags) in COUNTERS.items()},
    **{f"ray_side_ray_stage_{name}": ("stage",) for name in PROGRESS},
    **{f"ray_side_ray_train_{name}": ("stage",) for name in GAUGES},
    "ray_side_ray_trial_samples": ("trial",),
    **{f"ray_side_ray_trial_{score}_percent": ("trial", "band") for score in SCORES},
}
"""Every metric of side-ray as Ray exports it, and its labels."""
RAYS_OWN = "".join(
    path.read_text() for path in Path(ray.__file__).parent.glob("dashboard/modules/metrics/dashboards/*.py")
)
QUERIES = {
    **{f"{panel['title']} {each['refId']}": each["expr"] for panel in DASHBOARD["panels"] for each in panel["targets"]},
    **{rule["alert"]: rule["expr"] for rule in GROUP["rules"]},
}
EVERY_QUERY = pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)


def faults(query: str) -> list[str]:
    """Metrics that do not exist, labels that they do not have, and brackets that do not match."""
    names = set(re.findall(r"\bray_\w+", query))
    found = [name for name in names if name not in METRICS and name not in RAYS_OWN]
    labels = {"instance", *(label for name in names for label in METRICS.get(name, ()))}
    grouped = {each.strip() for inner in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for each in inner.split(",")}
    selected = {each for inner in re.findall(r"\{([^}]*)\}", query) for each in re.findall(r"(\w+)=", inner)}
    found += sorted((grouped | selected) - labels)
    found += [f"{a}{b}" for a, b in ("()", "[]", "{}") if query.count(a) != query.count(b)]
    return found if names else ["no metric"]


@EVERY_QUERY
def test_queries_name_metrics_and_labels_that_exist(query: str) -> None:
    assert faults(query) == []


@EVERY_QUERY
def test_a_misspelt_metric_or_label_is_found(query: str) -> None:
    assert faults(re.sub(r"\b(ray_\w+)", r"\1x", query, count=1))
    if "(stage" in query:
        assert faults(query.replace("(stage", "(stag", 1))


def test_every_metric_of_sampling_and_scoring_is_watched() -> None:
    shown = " ".join(QUERIES.values())
    named = [name for name in METRICS if not name.startswith(("ray_side_ray_train_", "ray_side_ray_trial_"))]
    assert [name for name in named if name not in shown] == []


def test_panels_are_apart_and_can_be_drawn() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) >= 10
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) <= variables


def test_rules_say_what_to_do() -> None:
    assert {"SideRayNoProgress", "SideRayShardsFail", "SideRayStorageRetries"} <= {r["alert"] for r in GROUP["rules"]}
    for rule in GROUP["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "$labels.stage" in rule["annotations"]["summary"]


ALERTS: list[dict[str, Any]] = [
    {  # a stage that stands, one that goes on, and one that has ended
        "interval": "1m",
        "input_series": [
            {"series": f'ray_side_ray_stage_total{{stage="{stage}"}}', "values": "100x120"}
            for stage in ("stands", "goes on", "ended")
        ]
        + [
            {"series": 'ray_side_ray_stage_done{stage="stands"}', "values": "50x120"},
            {"series": 'ray_side_ray_stage_done{stage="goes on"}', "values": "0+0.5x120"},
            {"series": 'ray_side_ray_stage_done{stage="ended"}', "values": "100x120"},
            {"series": 'ray_side_ray_shards_total{stage="stands",outcome="finished"}', "values": "50x120"},
            {"series": 'ray_side_ray_shards_total{stage="goes on",outcome="finished"}', "values": "0+0.5x120"},
            {"series": 'ray_side_ray_shards_total{stage="ended",outcome="finished"}', "values": "100x120"},
            {"series": 'ray_side_ray_shards_total{stage="goes on",outcome="failed"}', "values": "0x50 2x70"},
            {"series": 'ray_side_ray_retries_total{stage="goes on"}', "values": "0+0.1x60 0+30x60"},
        ],
        "alert_rule_test": [
            {
                "eval_time": "60m",
                "alertname": name,
                "exp_alerts": [{"exp_labels": {"severity": "warning", "stage": stage}} for stage in stages],
            }
            for name, stages in (("SideRayNoProgress", ["stands"]), ("SideRayShardsFail", ["goes on"]))
        ]
        + [
            {
                "eval_time": "110m",
                "alertname": "SideRayStorageRetries",
                "exp_alerts": [{"exp_labels": {"severity": "warning", "stage": "goes on"}}],
            },
            {"eval_time": "50m", "alertname": "SideRayStorageRetries", "exp_alerts": []},
        ],
    }
]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="without Prometheus")
def test_prometheus_raises_the_alarms_that_are_meant(tmp_path: Path) -> None:
    group = {**GROUP, "rules": [{k: v for k, v in rule.items() if k != "annotations"} for rule in GROUP["rules"]]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    queries = [{"record": f"query{n}", "expr": re.sub(r"\$\w+", ".*", q)} for n, q in enumerate(QUERIES.values())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": queries}]}))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": ALERTS}))
    for command in (["check", "rules", MONITORING / "rules.yaml", "queries.yaml"], ["test", "rules", "test.yaml"]):
        result = subprocess.run(["promtool", *map(str, command)], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_ray_exports_the_metrics_by_these_names(tmp_path: Path, ray_session: None) -> None:
    run(tmp_path)
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = {
        name for name in METRICS if name.startswith(("ray_side_ray_sam", "ray_side_ray_sh", "ray_side_ray_re"))
    } | {
        "ray_side_ray_stage_done",
        "ray_side_ray_stage_total",
    }
    deadline, found = time.monotonic() + 60, set[str]()
    while not wanted <= found and time.monotonic() < deadline:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        found = set(re.findall(r"(?m)^(\w+)\{", text))
        time.sleep(1)
    assert wanted <= found
    assert 'stage="touch"' in text
