"""Kills 25 processes while three nodes sample and score: the results are those of an uninterrupted run, in a directory and in
object storage with faults."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import psutil
import pytest
import yaml

from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import conditions
from side_ray.runs.run import Run
from side_ray.storage import Store, open_store
from tests.audits import tiny_config, tiny_values
from tests.bruteforce import check
from tests.nodes import Nodes, ray_nodes
from tests.s3 import faulty_proxy

KILLS = ["actor"] * 17 + ["driver"] * 6 + ["raylet"] * 2
CHANGES = {
    "dpm__kind": "optimal",
    "extract__samples": 1500,
    "extract__shard_size": 25,
    "extract__batch_size": 25,
    "extract__sampler": "ddim",
    "extract__steps": 60,
    "cluster__actors": [2, 4],
}


def side_ray(verb: str, uri: str, tmp_path: Path, name: str) -> list[str]:
    config = tmp_path / f"{name}.yaml"
    config.write_text(yaml.safe_dump(tiny_values(uri, **CHANGES)))
    return [sys.executable, "-m", "side_ray.cli", verb, str(config)]


class Chaos:
    """Repeats one command until it succeeds, and kills a process every few seconds."""

    def __init__(self, nodes: Nodes, command: list[str], log: Path) -> None:
        self.nodes, self.command, self.log = nodes, command, log.open("w")
        self.random, self.kills, self.given_up = random.Random(0), KILLS.copy(), 0
        self.random.shuffle(self.kills)
        self.killed: list[str] = []
        self.driver = self.start()

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(self.command, env=self.nodes.env, stdout=self.log, stderr=self.log)

    def run(self) -> None:
        following = time.monotonic() + 5
        while (code := self.driver.poll()) != 0:
            if code is not None:
                self.given_up += code != -signal.SIGKILL
                assert self.given_up < 5, "the audit failed too often"
                self.driver = self.start()
                following = time.monotonic() + 12  # time for a driver to start its actors
            if self.kills and time.monotonic() > following and self.kill(self.kills[-1]):
                self.killed.append(self.kills.pop())
                following = time.monotonic() + self.random.uniform(0.5, 3)
            time.sleep(0.05)

    def kill(self, what: str) -> bool:
        """Kill one process of this kind; False if there is none now."""
        if what == "driver":
            self.driver.kill()
            self.driver.wait()
        elif what == "actor":
            actors = self.nodes.actors("Generator", "Scorer", "SearchPart")
            if not actors:
                return False
            self.random.choice(sorted(actors, key=lambda each: each.pid)).kill()
        else:
            workers = [raylet for node in range(1, len(self.nodes.processes)) if (raylet := self.nodes.raylet(node))]
            self.random.choice(workers).kill()
            self.nodes.start()
        return True


def survive(run: Store, tmp_path: Path) -> None:
    """Kill all of `KILLS` while an audit writes to `run`, and compare the results with an uninterrupted audit."""
    quiet = open_store(str(tmp_path / "undisturbed"))
    with ray_nodes(tmp_path, 3, cpus=4) as nodes:
        for verb in ("train-surrogate", "audit"):
            subprocess.run(side_ray(verb, quiet.uri, tmp_path, "quiet"), env=nodes.env, check=True, timeout=900)
            if verb == "train-surrogate":
                for entry in quiet.list():
                    run.write(entry.key, quiet.read(entry.key))
        chaos = Chaos(nodes, side_ray("audit", run.uri, tmp_path, "run"), tmp_path / "audit.log")
        chaos.run()
        print(f"killed {chaos.killed}; the command failed and was restarted {chaos.given_up} times")
    assert not chaos.kills, f"the audit ended before {chaos.kills} were killed"

    ours, theirs = (Artifacts(tiny_config(store.uri, **CHANGES), Run(store)) for store in (run, quiet))
    for each in conditions(ours.config):
        one, other = (artifacts.samples(each).read_first(60) for artifacts in (ours, theirs))
        assert one.column("sample_id").to_pylist() == list(range(1500))
        assert one.equals(other), f"{each.name} differs from the undisturbed run"
        files = sorted(entry.key.rsplit("/", 1)[-1] for entry in run.list(ours.samples(each).directory))
        assert files == [f"part-{i:06d}.parquet" for i in range(60)]
    metrics = [artifacts.report.read_json("metrics.json")["conditions"] for artifacts in (ours, theirs)]
    assert metrics[0] == metrics[1]
    cluster = [
        each for each in psutil.process_iter(["cmdline"]) if "ray-nodes-test" in " ".join(each.info["cmdline"] or [])
    ]
    assert not psutil.wait_procs(cluster, 30)[1], "processes of the killed nodes are still running"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_five_kills_change_nothing(tmp_path):
    run = tmp_path / "run"
    survive(open_store(str(run)), tmp_path)
    assert check(run) == []
    # The store's listing ignores temporary files of killed writers.
    for directory in (run / "samples").glob("*/method=*/lambda=*"):
        assert sorted(os.listdir(directory)) == [f"part-{i:06d}.parquet" for i in range(60)]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_five_kills_change_nothing_in_object_storage_with_faults(s3, tmp_path, monkeypatch):
    with faulty_proxy(s3.endpoint, 0.1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        run = open_store(f"s3://{s3.bucket}/chaos", endpoint=s3.endpoint)
        survive(run, tmp_path)
        assert len(proxy.made) == 6  # every kind of fault
    uploads = boto3.client("s3", endpoint_url=s3.endpoint).list_multipart_uploads(Bucket=s3.bucket)
    assert "Uploads" not in uploads
    assert not [entry.key for entry in run.list() if "tmp" in entry.key or ".side-ray" in entry.key]
