"""The Grafana dashboard and the Prometheus rules: they name metrics that exist, with labels that these have."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from tests.s3 import free_ports

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
PATH = os.pathsep.join([os.environ["PATH"], str(Path.home() / ".cache" / "side-ray" / "prometheus" / "usr" / "bin")])
PROMETHEUS, PROMTOOL = (shutil.which(name, path=PATH) for name in ("prometheus", "promtool"))
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


@pytest.mark.skipif(PROMTOOL is None, reason="without Prometheus")
def test_prometheus_raises_the_alarms_that_are_meant(tmp_path: Path) -> None:
    group = {**GROUP, "rules": [{k: v for k, v in rule.items() if k != "annotations"} for rule in GROUP["rules"]]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    queries = [{"record": f"query{n}", "expr": re.sub(r"\$\w+", ".*", q)} for n, q in enumerate(QUERIES.values())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": queries}]}))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": ALERTS}))
    for command in (["check", "rules", MONITORING / "rules.yaml", "queries.yaml"], ["test", "rules", "test.yaml"]):
        result = subprocess.run([PROMTOOL, *map(str, command)], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


class Exporter(BaseHTTPRequestHandler):
    """Every metric that a query names, with two values of each label, larger at each scrape."""

    scrapes = 0

    def do_GET(self) -> None:
        type(self).scrapes += 1
        names = sorted(set(re.findall(r"\bray_\w+", " ".join(QUERIES.values()))))
        lines = [
            f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label in METRICS.get(name, ()))}}} {self.scrapes}\n"
            for name in names
            for value in ("finished", "failed")
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(dict.fromkeys(lines)).encode())

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that has the rules, and scrapes `Exporter` each second."""
    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "rules.yaml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{exporter.server_port}"]}]}],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    given = {"config.file": "prometheus.yaml", "storage.tsdb.path": "data", "web.listen-address": address}
    command = [str(PROMETHEUS), *(f"--{key}={value}" for key, value in given.items())]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        yield f"http://{address}/api/v1/"
    finally:
        process.kill()
        process.wait()
        exporter.shutdown()
        exporter.server_close()


def answer(address: str, **parameters: str) -> Any:
    """What Prometheus answers; None while it does not listen yet. Raises HTTPError for a query that it refuses."""
    try:
        given = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(address + given, timeout=10) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return None
        raise AssertionError(f"{parameters}: {error.read().decode()}") from None
    except OSError:
        return None


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="without Prometheus")
def test_every_panel_and_rule_gets_data_from_a_real_prometheus(prometheus: str) -> None:
    (band,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "band")
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", band["query"]).groups()
    panels = {
        f"{panel['title']} {each['refId']}": re.sub(r"\$\w+", "failed|finished", each["expr"])
        for panel in DASHBOARD["panels"]
        for each in panel["targets"]
    }
    deadline, empty = time.monotonic() + 300, {*panels, "band", "rules"}
    while empty and time.monotonic() < deadline:
        time.sleep(1)
        for name, query in panels.items():
            found = answer(f"{prometheus}query", query=query)
            if found and found["result"]:
                empty.discard(name)
        if answer(f"{prometheus}label/{label}/values", **{"match[]": metric}) == ["failed", "finished"]:
            empty.discard("band")
        groups = (answer(f"{prometheus}rules") or {"groups": []})["groups"]
        health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        if health == {rule["alert"]: "ok" for rule in GROUP["rules"]}:
            empty.discard("rules")
    assert empty == set()


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
